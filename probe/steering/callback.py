"""The callback that shows after each epoch what the direction, or the adapter, under training does to stories."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from torch import Tensor

from probe.data.reading import Passage, labels
from probe.directions.direction import as_layers, mean_difference_of, random_directions
from probe.files import write_json_lines
from probe.lm.operators import OPERATORS, heeds_strength, operator_called
from probe.lm.sources import cached
from probe.options.types import NonNegativeInt, PositiveInt
from probe.scorers.directional import DirectionalScorer
from probe.scorers.lora import LoRAScorer
from probe.shown.terminal import Terminal
from probe.steering.arms import Arm, written
from probe.steering.dose import CALIBRATED_ON, with_dose
from probe.steering.effects import Curve, band, curves
from probe.steering.ground import dull_prompts
from probe.steering.look import Look, compare_layers
from probe.steering.measuring import Readers, SteeredText, measure
from probe.steering.remembered import Shelf, Shown, key_of
from probe.steering.samples import sample_table
from probe.steering.settings import Demonstration
from probe.steering.witness import Case, Witness, meet, told_by
from probe.steering.witnesses import names_of, witnesses


class SteeringCallback(L.Callback):
    """Steers a few dull prompts after each validation, at last after the test where one follows, and measures what it did.

    Where a LoRA is under training the adapter writes, and a strength is how much of its output is used; a scorer that has no
    direction and leaves the LM alone steers nothing. The text is re-scored without the hook, with a mean difference from
    validation groups that neither trained the direction nor gave the prompts. The cosine of the two is logged: near 1 they
    are one vector, and only the witness, which shares neither vector nor states, can support a claim. Random directions of
    equal norm are the null.

    Args:
        n_layers: Steer with doses at so many of the layers that validation does not tell apart, the chosen one among them;
            the one where the largest dose does most within the budget is recommended, and shown.
        prompts: What is answered; by default uncreative held-out prompts.
        n_prompts: How many prompts to steer; 0 does not steer.
        n_random: Random directions of equal norm that steer the same prompts at the same strengths.
        every_n_epochs: How often to steer; the last epoch always is.
        how: The settings of `Demonstration`, each by its name; one dose by default.
    """

    def __init__(
        self,
        n_layers: PositiveInt = 3,
        prompts: Sequence[str] | None = None,
        n_prompts: NonNegativeInt = 8,
        n_random: NonNegativeInt = 0,
        every_n_epochs: PositiveInt = 1,
        **how: Any,
    ) -> None:
        self.how = Demonstration(**how)
        self.operator, self.unit = self.how.operator or "plus", str(self.how.strength_unit or "dose")
        asked: Sequence[float] = self.how.strengths or (1.0,)
        self.heeds_strength = heeds_strength(operator_called(self.operator))
        if not self.heeds_strength:
            self.unit, asked = "absolute", (1.0,)
        self.strengths, self.n_layers = (0.0, *(s for s in asked if s)), n_layers
        self.prompts, self.n_prompts, self.n_random, self.every_n_epochs = prompts, n_prompts, n_random, every_n_epochs
        names_of(self.how)  # a slip is found now; whether each can be asked, when a fit begins
        self.witnesses: list[Witness] = []
        self.samples: list[SteeredText] = []
        self.random: list[list[SteeredText]] = []
        """One list per random direction, of all strengths but 0."""
        self.layer, self.cosine = -1, float("nan")
        self.looks: list[Look] = []
        """What the largest dose did at each layer that was tried, the recommended one first."""
        self.epoch, self.group_of = -1, dict[str, str]()
        self.after_test, self.owes = False, False
        """Whether the last steering waits for the test, so that a person can read its result; and whether it is still to come."""

    @property
    def strongest(self) -> float:
        """The strength that is looked at and recommended: the greatest above 0, or where all lead away the furthest below."""
        return max(self.strengths) or min(self.strengths)

    @property
    def told_by(self) -> str:
        """The measure that says what steering gained."""
        return told_by(self.witnesses)

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Finds the witnesses before anything is learned: one that is not there ends the run now."""
        if stage == "fit" and self.n_prompts:
            self.witnesses = witnesses(self.how)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Runs after the scorer has chosen its layer."""
        last = trainer.current_epoch + 1 == trainer.max_epochs
        due = last or (trainer.current_epoch + 1) % self.every_n_epochs == 0
        if trainer.state.fn == "fit" and not trainer.sanity_checking and due:
            self.epoch = trainer.current_epoch
            if not (last and self.after_test):
                self.steer(trainer, pl_module)

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Steers where a run went on after its last epoch, which left nothing to validate; or leaves it until after the test."""
        self.owes = self.after_test
        if self.epoch < 0:
            self.epoch = trainer.current_epoch - 1
            if not self.owes:
                self.steer(trainer, pl_module)

    def steer(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Writes the texts of every strength, measures and logs them."""
        self.owes = False
        if not self.n_prompts:
            return
        folder = trainer.log_dir  # asks every process, so it stands before what only the first one does
        if trainer.is_global_zero and isinstance(pl_module, DirectionalScorer | LoRAScorer):
            self._steer(pl_module)
            self._log(trainer, folder)

    def _steer(self, scorer: DirectionalScorer | LoRAScorer) -> None:
        rows = scorer.data.rows["validation"]
        groups = sorted({rows[i].group for i, label in enumerate(labels(rows)) if label >= 0})
        if len(groups) < 2:
            return
        prompt_groups = groups[: len(groups) // 2]
        prompts = [*(self.prompts or dull_prompts(rows, prompt_groups))][: self.n_prompts]
        self.group_of = {row.prompt: row.group for row in rows}
        self.layer, other = scorer.chosen_layer, self._other_direction(scorer, set(prompt_groups))
        direction = None if isinstance(scorer, LoRAScorer) else scorer.direction()
        meet(self.witnesses, Case(scorer.lm, direction, scorer.data.concept))
        if isinstance(scorer, LoRAScorer):
            self.unit, arms = (
                "of the adapter",
                [Arm("adapter" if s else "plain", strength=s, adapter=s) for s in self.strengths],
            )
            moved = scorer.shift([Passage(prompt) for prompt in prompts]).cpu()
            self.cosine = float(torch.cosine_similarity(moved, other, dim=0))
            self.samples = [text for texts in self._written(scorer, arms, prompts, other).values() for text in texts]
            return
        self.cosine = float(scorer.direction().at(self.layer) @ other)
        # What a witness says, and what an operator of a plugin does, may be another thing the next time.
        same_again = not self.witnesses and self.operator in OPERATORS
        shelf = Shelf(cached(scorer.cache_dir, "activations") / "steered") if scorer.cache_dir and same_again else None
        key = self._key(scorer, prompts, other) if shelf else ""
        shown = shelf.load(key) if shelf else None
        if shown:
            Terminal().print("\nThe texts are remembered: this model has written them, steered by this very direction.")
        else:
            shown = self._show(scorer, prompts, other)
            if shelf:
                shelf.save(key, shown)
        self.samples, self.random, self.looks = shown.samples, shown.random, shown.looks
        scorer.steering_found = shown.steering_found

    def _key(self, scorer: DirectionalScorer, prompts: Sequence[str], other: Tensor) -> str:
        settings = {
            "how": asdict(self.how),
            "strengths": self.strengths,
            "layers": [self.layer, *scorer.tied[: self.n_layers]],
            "prompts": list(prompts),
            "n_random": self.n_random,
        }
        direction = scorer.direction()
        return key_of(scorer.lm, [direction.vectors, direction.residual_gap, direction.residual_norm, other], settings)

    def _show(self, scorer: DirectionalScorer, prompts: Sequence[str], other: Tensor) -> Shown:
        arms = self._arms(scorer, prompts)
        of_arm = self._written(scorer, arms, prompts, other)
        plain, at_random = of_arm.pop("plain"), [of_arm.pop(name) for name in [*of_arm] if name.startswith("random ")]
        looks = list[Look]()
        if of_arm and self.unit == "dose" and self.how.layer is None:
            at_layer = {layer: of_arm[arm.name] for arm in arms if arm.name in of_arm for layer in arm.vectors}
            looks = self._recommend(scorer, plain, at_layer)
            of_arm = {"best": at_layer[looks[0].layer]}
        samples = plain + [text for texts in of_arm.values() for text in texts]
        return Shown(samples, at_random, looks, dict(scorer.steering_found))

    def _written(
        self, scorer: DirectionalScorer | LoRAScorer, arms: Sequence[Arm], prompts: Sequence[str], other: Tensor
    ) -> dict[str, list[SteeredText]]:
        """The measured texts of each arm, by its name."""
        asked = [(prompt, arm) for arm in arms for prompt in prompts]
        Terminal().print(
            f"\nWriting {len(asked)} texts of at most {self.how.max_new_tokens} tokens: {len(prompts)} prompts, each plain, "
            "steered, and steered along random directions if any."
        )
        texts = written(scorer.lm, asked, self.how, progress=True)
        readers = Readers(self.layer, other, self.witnesses)
        measured = measure(scorer.lm, asked, texts, self.how, readers, progress=True)
        return {name: [s for s in measured if s.arm == name] for name in dict.fromkeys(arm.name for arm in arms)}

    def _arms(self, scorer: DirectionalScorer, prompts: Sequence[str]) -> list[Arm]:
        """The direction at every strength, with doses at several layers; random ones of equal norm at every strength but 0."""
        scorer.steering_found = {}  # a dose of the last epoch's direction is none of this one's
        direction = scorer.direction()
        if self.how.layer is not None:
            places = [as_layers(self.how.layer)]
        elif not self.heeds_strength:
            places = [list(direction.layers)]
        else:
            places = [[k] for k in (scorer.tied[: self.n_layers] if self.unit == "dose" else ()) or [self.layer]]
        if self.unit == "dose":
            layers = [k for place in places for k in place]
            direction = with_dose(scorer.lm, direction, layers, prompts[:CALIBRATED_ON], self.how)
            scorer.steering_found = {"dose": direction.provenance["dose"]}
        at = [(f"layer {place[0]}", direction, place) for place in places]
        null = random_directions(self.n_random, direction.layers, direction.vectors.shape[1], self.how.seed)
        at += [(f"random {i}", replace(direction, vectors=vectors), places[0]) for i, vectors in enumerate(null)]
        return [Arm("plain")] + [
            Arm(name, d.deltas(s, self.unit, place), s, self.operator)
            for name, d, place in at
            for s in self.strengths
            if s
        ]

    def _recommend(
        self, scorer: DirectionalScorer, plain: Sequence[SteeredText], at_layer: Mapping[int, Sequence[SteeredText]]
    ) -> list[Look]:
        """Finds the layer where the largest dose did most within the budget; it comes first."""
        strength = self.strongest
        of_layer = {k: [s for s in at_layer[k] if s.strength == strength] for k in at_layer}
        looks = compare_layers(plain, of_layer, strength)
        how = {"layer": looks[0].layer, "strength": strength, "strength_unit": "dose"}
        how |= {"tokens": self.how.tokens or "all", "operator": self.operator}
        scorer.steering_found = {**scorer.steering_found, "recommended": how}
        return looks

    def _other_direction(self, scorer: DirectionalScorer | LoRAScorer, taken: set[str]) -> Tensor:
        """Mean difference `[D]` of the validation pairs, or rated extremes, of groups not `taken`, read by the frozen LM."""
        rows = scorer.data.rows["validation"]
        h = scorer.features["validation"].at(scorer.chosen_layer, scorer.pooling)
        others = [-1 if row.group in taken else label for row, label in zip(rows, labels(rows), strict=True)]
        return mean_difference_of(h[:, None], others)[0]

    def curves(self) -> dict[str, Curve]:
        """Measure -> strength -> estimate."""
        return curves(self.samples, self.group_of, self.told_by)

    def band(self) -> dict[str, dict[float, tuple[float, float]]]:
        """Measure -> strength -> 5th and 95th percentile of the random directions."""
        return band(self.random)

    def _log(self, trainer: L.Trainer, folder: str | None) -> None:
        if folder:
            everything = [*self.samples, *(sample for arm in self.random for sample in arm)]
            write_json_lines(Path(folder) / "steering.jsonl", (sample.record() for sample in everything))
        ends = {name: curve[self.strongest].value for name, curve in self.curves().items()}
        numbers = {f"steer/{name}": value for name, value in ends.items() if np.isfinite(value)}
        for logger in trainer.loggers:
            if trainer.max_epochs != 1:  # a single point is no curve
                logger.log_metrics(numbers | {"steer/cosine_with_other_groups": self.cosine}, step=trainer.global_step)
            if isinstance(logger, L.pytorch.loggers.TensorBoardLogger):
                logger.experiment.add_text(
                    "steer/samples", sample_table(self.samples, self.told_by), trainer.global_step
                )
