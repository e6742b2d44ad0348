"""LoRA as a probe: the blocks up to the probed layer learn to show a linear head what it looks for."""

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from probe.activations.pooling import POOLINGS
from probe.data.reading import Passage
from probe.files import atomic_write
from probe.scorers.lora import LoRAScorer


def standardised(ratings: Sequence[float]) -> Tensor:
    """Ratings `[N]` with mean 0 and standard deviation 1."""
    truth = torch.tensor(ratings)
    return (truth - truth.mean()) / truth.std(correction=0).clamp_min(1e-12)


class LoRAProbe(LoRAScorer):
    """Low-rank adapters in blocks 0 to `layer`, and a linear head on the pooled states there, trained end to end.

    The score is the head's logit; where ratings are learned from, by the squared error, it is their standardised prediction.
    """

    centre: Tensor
    """`[D]` mean of the frozen LM's pooled training states."""
    scale: Tensor
    """`[D]` their standard deviation."""

    @property
    def deepest(self) -> int:
        """The probed block: what lies above is not run."""
        return self.chosen_layer

    def prepare(self) -> None:
        """Makes the head."""
        x = self.features["train"].at(self.chosen_layer, self.pooling)
        self.register_buffer("centre", x.mean(0))
        self.register_buffer("scale", x.std(0, correction=0).clamp_min(1e-12))
        self.head = nn.Linear(x.shape[1], 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        rows = self.data.rows["train"]
        self._ratings = standardised([row.truth for row in rows]) if self.data.rated else None
        self._encoded = self.lm.encoder.encode([row.passage(self.span) for row in rows])

    def training_step(self, batch: dict[str, Tensor], _: int) -> Tensor:
        """The mean log loss of the rows that have a class, or the mean squared error of the ratings."""
        states = self.reader.states(self._encoded, batch["row"].tolist())[:, POOLINGS.index(self.pooling), 0]
        if self._ratings is None:
            weight = (batch["label"] >= 0).float()
            loss = nn.functional.binary_cross_entropy_with_logits(
                self.logits(states), batch["label"].clamp_min(0).float(), weight, reduction="sum"
            ) / weight.sum().clamp_min(1)
        else:
            loss = nn.functional.mse_loss(self.logits(states), self._ratings[batch["row"].cpu()].to(states))
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def logits(self, states: Tensor) -> Tensor:
        """The head's logit `[N]` of pooled states `[N, D]` at the layer."""
        logits: Tensor = self.head((states - self.centre) / self.scale)[:, 0]
        return logits

    @torch.no_grad()
    def score(self, passages: Sequence[Passage]) -> Tensor:
        """The logit `[N, 1]`, read from the adapted LM."""
        return self.logits(self.pooled(passages).to(self.centre)).cpu()[:, None]

    def save_pretrained(self, folder: Path) -> Path:
        """Writes the adapters as PEFT reads them, and beside them `head.safetensors`; before `release`."""
        head = {"weight": self.head.weight[0], "bias": self.head.bias, "centre": self.centre, "scale": self.scale}
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in head.items()}
        super().save_pretrained(folder)
        atomic_write(folder / "head.safetensors", lambda path: save_file(tensors, path))
        return folder
