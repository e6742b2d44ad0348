"""Steered generation, and the callback that shows after each epoch what the direction under training does to stories."""

import html
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import lightning as L
import numpy as np
import torch
from torch import Tensor

from probe.activations import ActivationExtractor
from probe.data import Row
from probe.directions import cosine_scores, mean_difference
from probe.errors import ProbeError
from probe.files import atomic_write
from probe.hooks import add
from probe.lm import FrozenLM
from probe.rows import Passage
from probe.scorers.directional import DirectionalScorer
from probe.storyteller import Oracle


@dataclass(frozen=True)
class SteeredText:
    """One generated text and what was measured on it, on clean forward passes only."""

    prompt: str
    strength: float
    """In the callback's unit; 0 is the unsteered model."""
    text: str
    score: float
    """Clean re-score with a direction from other groups; nan for an empty text."""
    extra_nll: float
    """Nats per token above the unsteered text of the same prompt, under the clean model."""
    layer: int
    seed: int
    inventive_share: float | None = None
    well_formed_share: float | None = None
    named_share: float | None = None


def steer(
    lm: FrozenLM, prompts: Sequence[str], deltas: Tensor, layer: int, max_new_tokens: int, temperature: float, seed: int
) -> list[str]:
    """Answers prompts in one batch with delta `[B, D]` added to the residual stream after block `layer`, at every token."""
    with add({lm.blocks[layer]: deltas}):
        return lm.generate(prompts, max_new_tokens, temperature, seed)


class SteeringCallback(L.Callback):
    """Steers a few dull prompts after each validation and measures the result away from the steering.

    The text is re-scored without the hook, with a mean difference from validation groups that neither trained the
    direction nor gave the prompts. The cosine of the two is logged: near 1 they are one vector, and only the witness,
    which shares neither vector nor states, can support a claim.

    Args:
        strengths: How much of the direction to add; 0, the unsteered model, is always shown beside them.
        strength_unit: `gap` (distances of the class means), `norm` (shares of the residual norm) or `absolute`.
        n_prompts: Uncreative held-out prompts to steer; 0 does not steer.
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
        max_new_tokens: int = 120,
        temperature: float = 0.8,
        witness: Literal["none", "storyteller"] = "none",
        every_n_epochs: int = 1,
        seed: int = 0,
    ) -> None:
        if not np.isfinite(list(strengths)).all():
            raise ProbeError(
                f"steering.strengths: expected finite numbers, found {list(strengths)}; correct the config."
            )
        self.strengths, self.strength_unit, self.n_prompts = (0.0, *strengths), strength_unit, n_prompts
        self.max_new_tokens, self.temperature, self.witness = max_new_tokens, temperature, witness
        self.every_n_epochs, self.seed = every_n_epochs, seed
        self.samples: list[SteeredText] = []
        self.cosine = float("nan")

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Runs after the scorer has chosen its layer."""
        last = trainer.current_epoch + 1 == trainer.max_epochs
        due = last or (trainer.current_epoch + 1) % self.every_n_epochs == 0
        if trainer.state.fn != "fit" or trainer.sanity_checking or not (self.n_prompts and due):
            return
        folder = trainer.log_dir  # asks every process, so it stands before what only the first one does
        if trainer.is_global_zero and isinstance(pl_module, DirectionalScorer):
            self.samples = self._steer(pl_module, pl_module.direction().at(pl_module.chosen_layer))
            self._log(trainer, folder)

    def _steer(self, scorer: DirectionalScorer, a: Tensor) -> list[SteeredText]:
        layer, lm = scorer.chosen_layer, scorer.lm
        rows = scorer.data.rows["validation"]
        groups = sorted({row.group for row in rows if row.pair >= 0})
        if len(groups) < 2:
            return []
        prompt_groups = groups[: len(groups) // 2]
        prompts = _dull_prompts(rows, prompt_groups)[: self.n_prompts]
        other = self._other_direction(scorer, set(prompt_groups))
        self.cosine = float(a @ other)
        lam = {s: scorer.direction().strength(s, self.strength_unit, layer) for s in self.strengths}
        asked = [(prompt, s) for s in self.strengths for prompt in prompts]
        deltas = torch.stack([lam[s] * a for _, s in asked])
        texts = steer(lm, [p for p, _ in asked], deltas, layer, self.max_new_tokens, self.temperature, self.seed)
        passages = [Passage(prompt, text) for (prompt, _), text in zip(asked, texts, strict=True)]
        read = [i for i, text in enumerate(texts) if text.strip()]
        scores, nll = torch.full((len(texts),), torch.nan), lm.nll(passages)
        if read:
            clean = ActivationExtractor(lm, [layer])([passages[i] for i in read])
            scores[read] = cosine_scores(clean.unit_mean, other[None])[:, 0]
        baseline = {prompt: nll[i] for i, (prompt, s) in enumerate(asked) if s == 0}
        return [
            SteeredText(
                prompt, s, texts[i], float(scores[i]), float(nll[i] - baseline[prompt]), layer, self.seed,
                **self._testimony(prompt, texts[i]),
            )
            for i, (prompt, s) in enumerate(asked)
        ]  # fmt: skip

    def _other_direction(self, scorer: DirectionalScorer, taken: set[str]) -> Tensor:
        """Mean difference `[D]` of the validation pairs whose groups are not `taken`."""
        rows = scorer.data.rows["validation"]
        h = scorer.features["validation"].pooled(scorer.pooling)[:, scorer.extractor.layers.index(scorer.chosen_layer)]
        sides = [
            [i for i, r in enumerate(rows) if r.pair >= 0 and r.group not in taken and r.truth == y] for y in (0, 1)
        ]
        return mean_difference(torch.stack([h[side].mean(0) for side in sides])[:, None])[0][0]

    def _testimony(self, prompt: str, text: str) -> dict[str, float]:
        if self.witness == "none":
            return {}
        reading = Oracle().read(text, prompt)
        return {
            "inventive_share": reading.inventive_share,
            "well_formed_share": reading.well_formed_share,
            "named_share": reading.named_share,
        }

    def curves(self) -> dict[str, dict[float, float]]:
        """Measure -> strength -> mean over the prompts, nan left out."""
        names = ["score", "extra_nll"]
        names += ["inventive_share", "well_formed_share", "named_share"] if self.witness != "none" else []
        values = {
            (n, s): [getattr(x, n) for x in self.samples if x.strength == s] for n in names for s in self.strengths
        }
        return {n: {s: _mean(values[n, s]) for s in self.strengths} for n in names}

    def _log(self, trainer: L.Trainer, folder: str | None) -> None:
        for measure, curve in self.curves().items():
            for strength, value in curve.items():
                for logger in trainer.loggers:
                    logger.log_metrics({f"steer/{measure}/strength_{strength:g}": value}, step=trainer.global_step)
        for logger in trainer.loggers:
            logger.log_metrics({"steer/cosine_with_other_groups": self.cosine}, step=trainer.global_step)
            if isinstance(logger, L.pytorch.loggers.TensorBoardLogger):
                logger.experiment.add_text("steer/samples", sample_table(self.samples), trainer.global_step)
        if folder:
            lines = "".join(json.dumps(asdict(sample)) + "\n" for sample in self.samples)
            atomic_write(Path(folder) / "steering.jsonl", lambda path: path.write_text(lines))


def _dull_prompts(rows: Sequence[Row], groups: Sequence[str]) -> list[str]:
    """Uncreative prompts of the given groups, a first one of every group before a second of any."""
    by_group = {g: [r.prompt for r in rows if r.pair >= 0 and r.truth == 0 and r.group == g] for g in groups}
    deepest = max(len(prompts) for prompts in by_group.values())
    return [prompts[i] for i in range(deepest) for prompts in by_group.values() if i < len(prompts)]


def sample_table(samples: Sequence[SteeredText]) -> str:
    """Markdown table of samples, a row per prompt and a column per strength; model text is escaped and stays in its cell."""
    strengths = sorted({sample.strength for sample in samples})
    lines = [
        "| prompt | " + " | ".join(f"strength {s:g}" for s in strengths) + " |",
        "|" + "---|" * (len(strengths) + 1),
    ]
    by_prompt: dict[str, dict[float, SteeredText]] = {}
    for sample in samples:
        by_prompt.setdefault(sample.prompt, {})[sample.strength] = sample
    for prompt, texts in by_prompt.items():
        lines.append("| " + " | ".join([_escape(prompt), *(_sample_cell(texts[s]) for s in strengths)]) + " |")
    return "\n".join(lines)


def _sample_cell(sample: SteeredText) -> str:
    share = "" if sample.inventive_share is None else f", inventive {sample.inventive_share:.2f}"
    return f"**score {sample.score:.3f}, extra NLL {sample.extra_nll:+.2f}{share}**<br>{_escape(sample.text)}"


def _mean(values: Sequence[float]) -> float:
    finite = [value for value in values if np.isfinite(value)]
    return float(np.mean(finite)) if finite else float("nan")


def _escape(text: str) -> str:
    return html.escape(text).replace("|", "&#124;").replace("\n", "<br>")
