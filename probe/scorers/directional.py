"""What the scorers with a direction share: class sums that are streamed beside the training, and the saved direction."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from probe.activations.pooling import Activations
from probe.directions.direction import ClassSums, Direction
from probe.metrics.evaluation import EvaluationSet, nearest_to, tied_layers
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
    tied: Sequence[int] = ()
    """The chosen layer, and those that validation does not tell from it, from the middle of the model outwards."""
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
        self._unit_sums.update(activations.unit_mean, label)
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

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keeps the layers that tie, too: a run that goes on after its last epoch steers at the same ones."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["tied_layers"] = list(self.tied)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Takes them back."""
        super().on_load_checkpoint(checkpoint)
        self.tied = checkpoint.get("tied_layers", ())

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

    def choose(self, truth: EvaluationSet) -> str:
        """The layer with the best Spearman on validation; of those within one standard error, the one nearest the middle."""
        columns = dict(zip(self.extractor.layers, self.scored["validation"].T, strict=True))
        self.tied = nearest_to((self.lm.n_layers - 1) / 2, tied_layers(truth.spearman_of(columns)))
        self.log("val/chosen_layer", float(self.tied[0]))
        return f"layer_{self.tied[0]}"
