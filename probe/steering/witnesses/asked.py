"""The witness who is asked in words: a much larger model behind an endpoint compares each text with the plain one."""

from collections.abc import Mapping, Sequence

from probe.data.concept import CREATIVE
from probe.errors import ProbeError
from probe.lm.chat import Endpoint
from probe.lm.judges import endpoint_judge
from probe.lm.replies import ReplyLog
from probe.lm.sources import cached
from probe.metrics.pairwise import MARGIN, Comparison, by_judge
from probe.steering.witness import Case, Exhibit


class Asked:
    """Says which of two texts has more of the concept, each pair in both orders; nothing is asked twice.

    Args:
        endpoint: Whom to ask.
    """

    tells = "preferred_share"

    def __init__(self, endpoint: Endpoint | None) -> None:
        if endpoint is None:
            raise ProbeError(
                "--witness endpoint: expected its endpoint beside it, found none; name --steering.endpoint.model and .url."
            )
        self.ask_all = endpoint_judge(ReplyLog(cached("auto", "replies.db"), "PROBE_CACHE"), endpoint)
        self.concept = CREATIVE

    def meet(self, case: Case) -> None:
        """Learns what to look for."""
        self.concept = case.concept

    def __call__(self, written: Sequence[Exhibit]) -> Mapping[str, Sequence[float]]:
        """1 where a text is preferred to the plain one, 0 where that is, 0.5 for a tie, as of the plain text with itself."""
        pairs = [Comparison(one.prompt, one.prompt, "text", "plain", one.text, one.plain or "") for one in written]
        verdicts = by_judge([pair for pair in pairs if pair.text_a != pair.text_b], self.ask_all, self.concept).verdicts
        told = iter(verdicts)
        values = []
        for pair in pairs:
            verdict = next(told) if pair.text_a != pair.text_b else "tie" if pair.complete else None
            values.append(float("nan") if verdict is None else (1 + MARGIN[verdict]) / 2)
        return {self.tells: values}
