"""The witness who has learned: a saved scorer reads the texts, best with another language model than the one that steers."""

from collections.abc import Mapping, Sequence

from probe.data.reading import Passage
from probe.errors import ProbeError
from probe.logs import CHECKPOINT, DIRECTION, NEWEST, find_run
from probe.progress import working
from probe.scorers.abilities import HasDirection
from probe.scorers.saved import SavedScorer
from probe.steering.witness import Case, Exhibit

CHUNK = 64
"""Texts that are read between two words of how far it is."""
ONE_VECTOR = 0.9
"""Cosine from which two directions of one model are taken for the same."""


class Saved:
    """A run's scorer; with the LM that steers it sees the same states, so it is shown there and does not tell.

    Args:
        run: newest, a run's folder, or a name such as probe/version_3.
    """

    def __init__(self, run: str) -> None:
        self.reader = SavedScorer(find_run(run or NEWEST, CHECKPOINT, DIRECTION))
        self.tells = self.measure = "scorer_" + "_".join(self.reader.folder.parts[-2:])

    def meet(self, case: Case) -> None:
        """Refuses to be a witness of its own direction.

        Raises:
            ProbeError: where it shares LM and direction with what steers.
        """
        if self.reader.lm.fingerprint != case.lm.fingerprint:
            return
        self.tells = ""
        cosine = self._cosine(case)
        if cosine > ONE_VECTOR:
            raise ProbeError(
                f"--witness scorer:{self.reader.folder}: expected a witness that shares neither model nor direction with the "
                f"steering, found both shared (cosine {cosine:.2f}); fit one on another model."
            )

    def _cosine(self, case: Case) -> float:
        """Of what it reads along with what steers, at the layer where it reads; 0 where either is no direction."""
        if not self.reader.has_scorer:
            ours = self.reader.direction
        elif isinstance(self.reader.scorer, HasDirection):
            ours = self.reader.scorer.direction()
        else:
            return 0.0
        if case.direction is None or ours.chosen not in case.direction.layers or ours.chosen is None:
            return 0.0
        return abs(float(ours.at(ours.chosen).cpu() @ case.direction.at(ours.chosen).cpu()))

    def __call__(self, written: Sequence[Exhibit]) -> Mapping[str, Sequence[float]]:
        """Its scores, in the column that was chosen on validation."""
        values = [float("nan")] * len(written)
        there = [i for i, one in enumerate(written) if one.text.strip()]
        with working("a scorer reads as witness", len(there), "texts") as advance:
            for start in range(0, len(there), CHUNK):
                rows = there[start : start + CHUNK]
                scores = self.reader.score([Passage(written[i].prompt, written[i].text) for i in rows])
                for i, score in zip(rows, scores, strict=True):
                    values[i] = score
                advance(len(rows))
        return {self.measure: values}
