"""What the scorers with a direction share: class sums that are streamed beside the training, and the saved direction."""

from abc import abstractmethod
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from probe.activations.pooling import Activations
from probe.directions.direction import ClassSums, Direction
from probe.scorers.frozen import FrozenScorer


class DirectionalScorer(FrozenScorer):
    """A scorer whose head is one vector per layer; `weight` `[L, D]` is a unit vector or a probe's coefficients."""

    weight: torch.nn.Parameter
    residual_means: Tensor
    """`[2, L, D]` class means of the pooled states, uncreative first."""
    unit_means: Tensor
    """`[2, L, D]` class means of the pooled unit states."""
    residual_norm: Tensor
    """`[L]`"""
    steering_found: Mapping[str, Any] = MappingProxyType({})
    """What a look at steered texts found: the dose, and how to steer; it is saved with the direction."""

    @property
    def chosen_layer(self) -> int:
        """The block chosen on validation."""
        return self.extractor.layers[self.columns.index(self.chosen)]

    def build(self) -> None:
        """Makes the weight and the buffers that hold the class means."""
        n_layers, width = len(self.extractor.layers), self.lm.hidden_size
        self.weight = torch.nn.Parameter(torch.zeros(n_layers, width))
        self.register_buffer("residual_means", torch.zeros(2, n_layers, width))
        self.register_buffer("unit_means", torch.zeros(2, n_layers, width))
        self.register_buffer("residual_norm", torch.ones(n_layers))
        self._sums, self._unit_sums = ClassSums(n_layers, width), ClassSums(n_layers, width)

    def on_train_epoch_start(self) -> None:
        """Starts the sums anew: two epochs must not count twice."""
        self._sums.reset()
        self._unit_sums.reset()

    def training_step(self, batch: dict[str, Tensor], _: int) -> None:
        """Adds the batch to the class sums."""
        self.stream(batch)
        super().training_step(batch, _)

    def stream(self, batch: dict[str, Tensor]) -> tuple[Activations, Tensor]:
        """Adds a batch to the class sums and returns its activations and labels."""
        activations, label = self.features["train"][batch["row"].cpu()], batch["label"].cpu()
        self._sums.update(activations.pooled(self.pooling), label)
        self._unit_sums.update(activations.pooled("unit_mean"), label)
        return activations, label

    def on_validation_start(self) -> None:
        """Finishes the epoch: Lightning validates before `on_train_epoch_end`."""
        if self.trainer.state.fn == "fit" and not self.trainer.sanity_checking:
            self.finish_epoch()

    def finish_epoch(self) -> None:
        """Writes the epoch's class means into buffers, so that a checkpoint holds them."""
        means, norm = self._sums.compute()
        self.residual_means.copy_(means)
        self.residual_norm.copy_(norm)
        self.unit_means.copy_(self._unit_sums.compute()[0])

    @abstractmethod
    def unit_vectors(self) -> Tensor:
        """The direction of each layer `[L, D]`, unit norm, in the residual stream's own coordinates."""

    def direction(self) -> Direction:
        """The direction at every layer, with the gaps measured on the training pairs."""
        a = self.unit_vectors().detach().cpu()
        uncreative, creative = self.residual_means.cpu()
        scores = torch.einsum("cld,ld->cl", self.unit_means.cpu(), a)
        return Direction(
            vectors=a,
            layers=self.extractor.layers,
            residual_gap=((creative - uncreative) * a).sum(-1),
            residual_norm=self.residual_norm.cpu(),
            score_midpoint=scores.mean(0),
            score_gap=scores[1] - scores[0],
            chosen=self.chosen_layer if self.chosen else None,
            provenance=self.provenance() | dict(self.steering_found),
        )
