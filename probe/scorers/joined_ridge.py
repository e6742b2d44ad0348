"""One ridge regression on the states of several blocks and poolings side by side."""

from typing import Any, ClassVar

import torch
from torch import Tensor

from probe.activations.pooling import Activations
from probe.data.reading import Pooling
from probe.lm.spec import LMSpec
from probe.options.types import NonNegativeInt
from probe.scorers.base import Kind
from probe.scorers.frozen import FrozenScorer
from probe.scorers.ridge import ridge

DEPTHS = (0.4, 0.6, 0.75)


class JoinedRidge(FrozenScorer):
    """Least squares with a penalty |w|^2 on several blocks and poolings joined; the score is what it predicts.

    It has no direction: what it reads is in no single residual stream. The penalty is chosen as `RidgeProbe` does.

    Args:
        lm: The language model to read; given once, in the `lm` section of a config.
        layers: Blocks that are joined, 0-based; by default three, at 2/5, 3/5 and 3/4 of the depth.
        poolings: The ways in which a text's states become one vector that are joined.
        reading: What to read, as `FrozenScorer` takes it.
    """

    kind: ClassVar[Kind] = "single"
    weight: torch.nn.Parameter
    """`[W]`, W = poolings x layers x D."""
    bias: torch.nn.Parameter
    centre: Tensor
    scale: Tensor

    def __init__(
        self,
        lm: LMSpec,
        *,
        layers: list[NonNegativeInt] | None = None,
        poolings: tuple[Pooling, ...] = ("last", "mean"),
        **reading: Any,
    ) -> None:
        super().__init__(lm, layers=layers, **reading)
        self.poolings = tuple(poolings)

    @property
    def columns(self) -> tuple[str, ...]:
        """One."""
        return ("score",)

    @property
    def joined(self) -> list[int]:
        """The blocks that are joined."""
        blocks = self.wanted_layers or [int(depth * self.lm.n_layers) for depth in DEPTHS]
        return sorted(dict.fromkeys(blocks))

    def build(self) -> None:
        """Makes the weights."""
        width = len(self.poolings) * len(self.joined) * self.lm.hidden_size
        self.weight = torch.nn.Parameter(torch.zeros(width))
        self.bias = torch.nn.Parameter(torch.zeros(()))
        self.register_buffer("centre", torch.zeros(width))
        self.register_buffer("scale", torch.ones(width))

    def states(self, activations: Activations) -> Tensor:
        """What is joined of each text `[N, W]`."""
        return torch.cat([activations.at(k, pooling) for pooling in self.poolings for k in self.joined], 1)

    def on_validation_start(self) -> None:
        """Fits, once the epoch is over: Lightning validates before `on_train_epoch_end`."""
        if self.trainer.state.fn == "fit" and not self.trainer.sanity_checking:
            x = self.states(self.features["train"])
            self.centre.copy_(x.mean(0))
            self.scale.copy_(x.std(0, correction=0).clamp_min(1e-12))
            truth = torch.tensor([row.truth for row in self.data.rows["train"]])
            weight, bias = ridge((x - self.centre.cpu()) / self.scale.cpu(), truth)
            self.weight.data.copy_(weight)
            self.bias.data.fill_(bias)

    def score_activations(self, activations: Activations) -> Tensor:
        """What it predicts `[N, 1]`."""
        z = (self.states(activations) - self.centre.cpu()) / self.scale.cpu()
        return (z @ self.weight.detach().cpu() + self.bias.detach().cpu())[:, None]
