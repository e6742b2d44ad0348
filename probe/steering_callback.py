"""The callback that shows after each epoch what the direction, or the adapter, under training does to stories."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Literal

import lightning as L
import numpy as np
import torch
from torch import Tensor

from probe.data import Row
from probe.directions import Direction, mean_difference, random_directions
from probe.effects import Curve, band, curves
from probe.errors import ProbeError
from probe.files import write_json_lines
from probe.rows import Passage
from probe.samples import sample_table
from probe.scorers.directional import DirectionalScorer
from probe.scorers.lora import LoRAScorer
from probe.steering import Arm, Sampling, SteeredText, Witness, measure, write


class SteeringCallback(L.Callback):
    """Steers a few dull prompts after each validation and measures the result away from the steering.

    Where a LoRA is under training the adapter writes, and a strength is how much of its output is used; a scorer that has no
    direction and leaves the LM alone steers nothing. The text is re-scored without the hook, with a mean difference from
    validation groups that neither trained the direction nor gave the prompts. The cosine of the two is logged: near 1 they
    are one vector, and only the witness, which shares neither vector nor states, can support a claim. Random directions of
    equal norm are the null.

    Args:
        strengths: How much of the direction to add, or of the adapter to use; 0, the unsteered model, is always shown too.
        strength_unit: Of a direction: `gap` (distances of the class means), `norm` (shares of the residual norm) or `absolute`.
        n_prompts: Uncreative held-out prompts to steer; 0 does not steer.
        n_random: Random directions of equal norm that steer the same prompts at the same strengths.
        max_new_tokens: Length limit of a story.
        temperature: Sampling temperature; 0 is greedy.
        witness: `storyteller` lets the embedded model's grammar read the texts; `none` for any other model.
        every_n_epochs: How often to steer; the last epoch always is.
        seed: Seed of the sampling; the training's random state is untouched.
    """

    def __init__(
        self,
        strengths: Sequence[float] = (1.0, 2.0),
        strength_unit: Literal["absolute", "gap", "norm"] = "gap",
        n_prompts: int = 8,
        n_random: int = 5,
        max_new_tokens: int = 120,
        temperature: float = 0.8,
        witness: Witness = "none",
        every_n_epochs: int = 1,
        seed: int = 0,
    ) -> None:
        if not np.isfinite(list(strengths)).all():
            raise ProbeError(
                f"steering.strengths: expected finite numbers, found {list(strengths)}; correct the config."
            )
        self.strengths, self.strength_unit = (0.0, *(s for s in strengths if s)), strength_unit
        self.n_prompts, self.n_random = n_prompts, n_random
        self.how, self.witness, self.every_n_epochs = (
            Sampling(max_new_tokens, temperature, seed),
            witness,
            every_n_epochs,
        )
        self.samples: list[SteeredText] = []
        self.random: list[list[SteeredText]] = []
        """One list per random direction, of all strengths but 0."""
        self.layer, self.cosine, self.unit = -1, float("nan"), str(strength_unit)
        self.epoch, self.group_of = -1, dict[str, str]()

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Runs after the scorer has chosen its layer."""
        last = trainer.current_epoch + 1 == trainer.max_epochs
        due = last or (trainer.current_epoch + 1) % self.every_n_epochs == 0
        if trainer.state.fn != "fit" or trainer.sanity_checking or not (self.n_prompts and due):
            return
        folder = trainer.log_dir  # asks every process, so it stands before what only the first one does
        if trainer.is_global_zero and isinstance(pl_module, DirectionalScorer | LoRAScorer):
            self._steer(pl_module)
            self._log(trainer, folder)

    def _steer(self, scorer: DirectionalScorer | LoRAScorer) -> None:
        rows = scorer.data.rows["validation"]
        groups = sorted({row.group for row in rows if row.pair >= 0})
        if len(groups) < 2:
            return
        prompt_groups = groups[: len(groups) // 2]
        prompts = dull_prompts(rows, prompt_groups)[: self.n_prompts]
        self.epoch, self.group_of = scorer.current_epoch, {row.prompt: row.group for row in rows if row.pair >= 0}
        self.layer, other = scorer.chosen_layer, self._other_direction(scorer, set(prompt_groups))
        if isinstance(scorer, LoRAScorer):
            self.unit, arms = "of the adapter", [Arm("adapter", strength=s, adapter=s) for s in self.strengths]
            moved = scorer.shift([Passage(prompt) for prompt in prompts]).cpu()
            self.cosine = float(torch.cosine_similarity(moved, other, dim=0))
        else:
            self.unit, arms = self.strength_unit, self._arms(scorer.direction())
            self.cosine = float(scorer.direction().at(self.layer) @ other)
        asked = [(prompt, arm) for arm in arms for prompt in prompts]
        measured = measure(
            scorer.lm, asked, write(scorer.lm, asked, self.how), self.how, self.layer, other, self.witness
        )
        of_arm = {name: [s for s in measured if s.arm == name] for name in dict.fromkeys(arm.name for arm in arms)}
        self.samples, *self.random = of_arm.values()

    def _arms(self, direction: Direction) -> list[Arm]:
        """The direction at every strength, and random ones of equal norm at every strength but 0."""
        null = random_directions(self.n_random, direction.layers, direction.vectors.shape[1], self.how.seed)
        rivals = [(f"random {i}", replace(direction, vectors=vectors)) for i, vectors in enumerate(null)]
        return [Arm("direction")] + [
            Arm(name, rival.deltas(s, self.strength_unit, [self.layer]), s)
            for name, rival in [("direction", direction), *rivals]
            for s in self.strengths
            if s
        ]

    def _other_direction(self, scorer: DirectionalScorer | LoRAScorer, taken: set[str]) -> Tensor:
        """Mean difference `[D]` of the validation pairs whose groups are not `taken`, read by the frozen LM."""
        rows = scorer.data.rows["validation"]
        h = scorer.features["validation"].pooled(scorer.pooling)[:, scorer.extractor.layers.index(scorer.chosen_layer)]
        sides = [
            [i for i, r in enumerate(rows) if r.pair >= 0 and r.group not in taken and r.truth == y] for y in (0, 1)
        ]
        return mean_difference(torch.stack([h[side].mean(0) for side in sides])[:, None])[0][0]

    def curves(self) -> dict[str, Curve]:
        """Measure -> strength -> estimate."""
        return curves(self.samples, self.group_of)

    def band(self) -> dict[str, dict[float, tuple[float, float]]]:
        """Measure -> strength -> 5th and 95th percentile of the random directions."""
        return band(self.random)

    def _log(self, trainer: L.Trainer, folder: str | None) -> None:
        numbers = {
            f"steer/{name}/strength_{strength:g}": estimate.value
            for name, curve in self.curves().items()
            for strength, estimate in curve.items()
            if np.isfinite(estimate.value)
        }
        for logger in trainer.loggers:
            logger.log_metrics(numbers | {"steer/cosine_with_other_groups": self.cosine}, step=trainer.global_step)
            if isinstance(logger, L.pytorch.loggers.TensorBoardLogger):
                logger.experiment.add_text("steer/samples", sample_table(self.samples), trainer.global_step)
        if folder:
            everything = [*self.samples, *(sample for arm in self.random for sample in arm)]
            write_json_lines(Path(folder) / "steering.jsonl", map(asdict, everything))


def dull_prompts(rows: Sequence[Row], groups: Sequence[str]) -> list[str]:
    """Uncreative prompts of the given groups, a first one of every group before a second of any."""
    by_group = {g: [r.prompt for r in rows if r.pair >= 0 and r.truth == 0 and r.group == g] for g in groups}
    deepest = max(len(prompts) for prompts in by_group.values())
    return [prompts[i] for i in range(deepest) for prompts in by_group.values() if i < len(prompts)]
