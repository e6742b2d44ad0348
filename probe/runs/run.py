"""Run: what one `fit` left, ready to score texts and to steer: `run = probe.load("newest"); run.score([...])`."""

from dataclasses import replace
from functools import cached_property
from pathlib import Path

from probe.data.reading import Passage
from probe.lm.spec import LMSpec, Unit
from probe.logs import CHECKPOINT, DIRECTION, NEWEST, find_run
from probe.runs.calibration import Calibration
from probe.runs.summary import Summary, summary_of
from probe.scorers.saved import SavedScorer
from probe.steering.arms import Arm, write
from probe.steering.asked import asked_for
from probe.steering.dose import with_dose
from probe.steering.settings import Sampling, Steering


class Run(SavedScorer):
    """A folder that `fit` or `try` left: its scorer, and what else it found. Its model is loaded when it is first needed.

    Args:
        folder: The run's folder.
        lm: The model; by default the one that the run was made with. It has to have the same weights.
    """

    def __repr__(self) -> str:
        return f"Run({str(self.folder)!r})"

    @cached_property
    def summary(self) -> Summary:
        """What it is: when, which model, which method, read how, and what it found."""
        return summary_of(self.folder)

    @cached_property
    def calibration(self) -> Calibration | None:
        """The scores of its training texts, where they were kept."""
        return Calibration.load(self.folder)

    def percentile(self, score: float, passage: Passage | None = None) -> float:
        """Per cent of the run's training texts that score lower; nan where that cannot be said, and `no_percentile` why.

        Args:
            score: A raw score.
            passage: What was scored; by default a text.
        """
        known = self.calibration
        return known.percentile(score) if known and not self.no_percentile(passage) else float("nan")

    def no_percentile(self, passage: Passage | None = None) -> str:
        """Why there is no percentile of such a passage; empty where there is one."""
        if not self.calibration:
            return f"{self.folder} holds no scores of its training texts; fit anew to have percentiles"
        of_text = passage is None or passage.response is not None
        if of_text != (self.calibration.span == "response"):
            return f"{self.folder} learned from {'instructions' if of_text else 'texts'}, which are no measure of these"
        return ""

    def generate(
        self,
        prompt: str,
        strength: float = 1.0,
        unit: Unit = "dose",
        how: Sampling | None = None,
        operator: str | None = None,
    ) -> str:
        """Writes a text, steered with the run's direction where it recommends, as `probe generate` does.

        Args:
            prompt: What to answer.
            strength: How much; 0 is the plain model, below 0 steers away.
            unit: Of the strength: dose (measured on the prompt where the run knows none), gap, norm or absolute.
            how: Length, temperature and seed.
            operator: What is done with the direction, by name: plus, without, clamp, ...; by default as it recommends.

        Raises:
            ProbeError: where the run left no direction.
        """
        said = Steering(**vars(how or Sampling()), operator=operator, strength_unit=unit)
        direction = self.direction
        to_do, _ = asked_for(direction, said, [strength])
        said = replace(said, tokens=to_do.tokens)
        if not strength:
            return write(self.lm, [(prompt, Arm("plain"))], said)[0]
        if to_do.unit == "dose":
            direction = with_dose(self.lm, direction, to_do.layers, [prompt], said)
        arm = Arm("run", direction.deltas(to_do.strength, to_do.unit, to_do.layers), to_do.strength, to_do.operator)
        return write(self.lm, [(prompt, arm)], said)[0]


def load(name: str | Path = NEWEST, lm: LMSpec | None = None) -> Run:
    """Opens a run: `newest`, a folder, or how its folder's name ends, such as probe/version_3.

    Raises:
        ProbeError: where there is no such run.
    """
    return Run(find_run(name, CHECKPOINT, DIRECTION), lm)
