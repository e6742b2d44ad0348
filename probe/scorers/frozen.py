"""What the scorers on frozen features share: the LM is read once, and the head sees what was pooled."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from probe.activations.pooling import Activations
from probe.data.reading import Passage, Pooling, Span
from probe.data.splits import Split
from probe.lm.spec import LMSpec
from probe.metrics.evaluation import EvaluationSet, nearest_to, tied_layers
from probe.options.types import FilePath, NonNegativeInt
from probe.scorers.base import Kind, Scorer

AT_ONCE = 1024
"""Texts that are scored at once: what is held of them does not grow with how many there are."""


class FrozenScorer(Scorer):
    """A head on the pooled activations of a frozen LM; a score at each layer, unless it says otherwise.

    Args:
        lm: The language model to read; given once, in the `lm` section of a config.
        span: Where pairs are read: over the instruction (prompt), where the reply to it begins (reply), or over the text
            that answers it (response).
        pooling: How a text's states become one vector to learn from.
        layers: Blocks to read, 0-based; all by default.
        cache_dir: Where activations are remembered between runs; `auto` is the user's cache folder, null remembers nothing.
    """

    kind: ClassVar[Kind] = "layers"
    tied: Sequence[int] = ()
    """The chosen layer, and those that validation does not tell from it, from the middle of the model outwards."""

    def __init__(
        self,
        lm: LMSpec,
        span: Span = "response",
        pooling: Pooling = "mean",
        layers: list[NonNegativeInt] | None = None,
        cache_dir: FilePath | None = "auto",
    ) -> None:
        super().__init__(lm, span, cache_dir)
        self.pooling, self.wanted_layers = pooling, layers

    @property
    def columns(self) -> tuple[str, ...]:
        """One per layer."""
        return tuple(f"layer_{k}" for k in self.extractor.layers)

    @abstractmethod
    def score_activations(self, activations: Activations) -> Tensor:
        """Scores `[N, C]`, raw, higher = more creative."""

    def score(self, passages: Sequence[Passage]) -> Tensor:
        """Scores `[N, C]` of any passages, raw, higher = more creative."""
        read = self.extractor(passages)
        with torch.no_grad():
            return torch.cat(
                [self.score_activations(read[rows]) for rows in torch.split(torch.arange(len(read)), AT_ONCE)]
            )

    def score_rows(self, split: Split, rows: Tensor) -> Tensor:
        """Scores `[B, C]` of the rows `[B]` of a split, from what was read in `setup`."""
        return self.score_activations(self.features[split][rows])

    def choose(self, truth: EvaluationSet) -> str:
        """The layer with the best Spearman on validation; of those within one standard error, the one nearest the middle."""
        if len(self.columns) != len(self.extractor.layers):
            return super().choose(truth)
        layers = dict(zip(self.extractor.layers, self.scored["validation"].T, strict=True))
        self.tied = nearest_to((self.lm.n_layers - 1) / 2, tied_layers(truth.spearman_of(layers)))
        self.log("val/chosen_layer", float(self.tied[0]))
        return self.columns[self.extractor.layers.index(self.tied[0])]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keeps the layers that tie, too: a run that goes on after its last epoch steers at the same ones."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["tied_layers"] = list(self.tied)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Takes them back."""
        super().on_load_checkpoint(checkpoint)
        self.tied = checkpoint.get("tied_layers", ())

    def settings(self) -> dict[str, Any]:
        """As every scorer's; all layers are the same as null."""
        return super().settings() | {"layers": list(self.extractor.layers)}
