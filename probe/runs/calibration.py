"""What a raw score means: where it lies among the scores of the texts that the run learned from."""

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from probe.errors import ProbeError
from probe.files import from_json, write_json
from probe.scorers.base import Scorer

FILE = "calibration.json"


@dataclass(frozen=True)
class Calibration:
    """The chosen column's scores of the training texts, which were read over their responses or over their instructions."""

    scores: Sequence[float]
    """`[N]` from low to high."""
    span: str

    @classmethod
    def of(cls, scorer: Scorer) -> "Calibration":
        """The scores of the rows that a scorer learned from."""
        rows = torch.arange(len(scorer.data.rows["train"]))
        with torch.no_grad():
            scores = scorer.score_rows("train", rows)[:, scorer.columns.index(scorer.chosen)]
        return cls(sorted(score for score in scores.tolist() if math.isfinite(score)), scorer.span)

    def save(self, folder: Path) -> None:
        """Writes them into the run's folder."""
        write_json(folder / FILE, {"span": self.span, "scores": list(self.scores)})

    @classmethod
    def load(cls, folder: Path) -> "Calibration | None":
        """Those of a run; None of an older one, which kept none.

        Raises:
            ProbeError: where the file is damaged.
        """
        file = folder / FILE
        if not file.is_file():
            return None
        try:
            saved = from_json(file.read_text(encoding="utf-8"))
            scores = [float(score) for score in saved["scores"]]
            if not all(map(math.isfinite, scores)) or not isinstance(saved["span"], str):
                raise ValueError("it holds something else than finite numbers and a span")
            return cls(sorted(scores), saved["span"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ProbeError(f"{file}: expected scores of training texts, found none ({error}); remove it.") from error

    def percentile(self, score: float) -> float:
        """Per cent of the training texts that score lower, ties by half; nan where there is nothing to compare."""
        if not self.scores or math.isnan(score):
            return math.nan
        return 50.0 * (bisect_left(self.scores, score) + bisect_right(self.scores, score)) / len(self.scores)
