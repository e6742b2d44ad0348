"""Asking the model whether a text is creative: the judge that everyone tries first, and that the paper finds poor."""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from probe.data.reading import Passage, Span, labels, pairs
from probe.data.splits import SplitRows
from probe.lm.spec import LMSpec
from probe.options.types import FilePath
from probe.progress import working
from probe.scorers.measure import Measure


class Question(NamedTuple):
    """What the model is asked about texts, one `{}` each, and the two answers that it may give."""

    wording: str
    answers: tuple[str, str]


CREATIVE = Question("Is the following text {concept}? Reply with Yes or No only.\n\n{}", ("Yes", "No"))
MORE_CREATIVE = Question(
    "Which of these two texts is more {concept}? Reply with A or B only.\n\nText A: {}\n\nText B: {}", ("A", "B")
)
LEAST_MASS = 0.5
"""A model that gives the two answers less than this of its probability was not taught to reply, and does not judge."""
PAIRS_SAMPLED = 16
"""Training pairs, spread over all of them, on which that is measured."""


class SelfJudgement(Measure):
    """log p(Yes) - log p(No) at the first token of the model's reply; nan where the model gives no such reply.

    Source: the naive self-evaluation of Olson et al. 2024, arXiv 2412.06060.

    Args:
        lm: The language model to ask; given once, in the `lm` section of a config.
        span: Where pairs are read: the instruction (prompt) or the text that answers it (response) is judged.
        cache_dir: Where activations are remembered between runs; `auto` is the user's cache folder, null remembers nothing.
        concept: What the model is asked for, an adjective; by default what the data are about, as `--concept` says.
    """

    def __init__(
        self,
        lm: LMSpec,
        span: Span = "response",
        cache_dir: FilePath | None = "auto",
        concept: str | None = None,
    ) -> None:
        super().__init__(lm, span, cache_dir)
        self._concept = concept
        self.mass: dict[Question, float] = {}
        """Mean probability of the two answers together, over a sample of the training texts."""

    @property
    def concept(self) -> str:
        """What the model is asked for."""
        return self._concept or (self.data.concept if self._trainer else SplitRows.concept)

    def identity(self) -> dict[str, Any]:
        """As every scorer's, and the concept by its name."""
        return super().identity() | {"concept": self.concept}

    def measure(self, passages: Sequence[Passage]) -> Tensor:
        """Log-odds `[N]` that the reply is Yes."""
        return self._log_odds(CREATIVE, [(passage.pooled,) for passage in passages])

    def prefer(self, one: Sequence[Passage], other: Sequence[Passage]) -> Tensor:
        """Log-odds `[N]` that `one` is named as the more creative, averaged over both orders."""
        shown_first, shown_second = self._in_both_orders(one, other)
        return (shown_first - shown_second) / 2

    def position_bias(self, one: Sequence[Passage], other: Sequence[Passage]) -> float:
        """Mean log-odds, over texts and both orders, that the text shown first is named."""
        return float(torch.cat(self._in_both_orders(one, other)).mean())

    def _in_both_orders(self, one: Sequence[Passage], other: Sequence[Passage]) -> tuple[Tensor, Tensor]:
        """Log-odds `[N]` that text A is named, where A is `one` and where A is `other`."""
        pairs = [(a.pooled, b.pooled) for a, b in zip(one, other, strict=True)]
        log_odds = self._log_odds(MORE_CREATIVE, pairs + [pair[::-1] for pair in pairs])
        return log_odds[: len(pairs)], log_odds[len(pairs) :]

    def _log_odds(self, question: Question, texts: Sequence[tuple[str, ...]]) -> Tensor:
        if not self._applies(question):
            return torch.full((len(texts),), torch.nan, dtype=torch.float64)
        logprobs = self._logprobs(question, texts)
        return logprobs[:, 0] - logprobs[:, 1]

    def _applies(self, question: Question) -> bool:
        if question not in self.mass:
            mass = self._logprobs(question, self._sample(question)).exp().sum(1).mean().item()
            self.mass[question] = mass
            if mass < LEAST_MASS:
                answers = " or ".join(question.answers)
                note = f"not applicable: the model puts {mass:.2f} of its probability on the answers {answers}"
                self.note = "; ".join(filter(None, (self.note, note)))
                rank_zero_warn(f"SelfJudgement is {note}; use a model that was tuned to reply to questions.")
        return self.mass[question] >= LEAST_MASS

    def _sample(self, question: Question) -> list[tuple[str, ...]]:
        rows = self.data.rows["train"]
        texts = [row.passage(self.span).pooled for row in rows]
        both = [(texts[i], texts[j]) for i, j in pairs(rows)]
        if not both:  # rated texts: each of the highest beside one of the lowest
            high, low = ([t for t, of in zip(texts, labels(rows), strict=True) if of == side] for side in (1, 0))
            both = list(zip(high, low, strict=False))
        both = both[:: -(-len(both) // PAIRS_SAMPLED)]
        if question is CREATIVE:
            return [(text,) for pair in both for text in pair]
        return [*both, *(pair[::-1] for pair in both)]

    def _logprobs(self, question: Question, texts: Sequence[tuple[str, ...]]) -> Tensor:
        """Log-probability `[N, 2]` of each answer."""
        return self.remembered((question, self.concept), texts, partial(self._ask, question))

    def _ask(self, question: Question, texts: Sequence[tuple[str, ...]]) -> Tensor:
        wording = partial(question.wording.format, concept=self.concept)
        encoded = [self.lm.encoder.encode_question(wording, shown) for shown in texts]
        if cut := sum(e.truncated for e in encoded):
            self.extractor.reads.truncated += cut
            rank_zero_warn(
                f"in {cut} questions a text was cut, to fit into {self.lm.max_tokens} tokens; --strict refuses instead."
            )
        with working("asking about", len(encoded), "texts") as advance:
            return self.lm.reply_logprobs(encoded, self.lm.encoder.reply_starts(*question.answers), advance)
