"""What directions that learned nothing reach, given the same choice of layer and sign: a band, not a point."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from probe.activations.pooling import Activations
from probe.directions.direction import random_directions
from probe.lm.spec import LMSpec
from probe.metrics.evaluation import EvaluationSet
from probe.metrics.ranks import to_numpy
from probe.options.types import PositiveInt, Seed
from probe.scorers.frozen import FrozenScorer


class RandomDirections(FrozenScorer):
    """Directions uniform on the sphere; each is given the layer and the sign that rank validation best.

    Args:
        lm: The language model to read; given once, in the `lm` section of a config.
        count: How many directions.
        seed: Draws them.
        reading: What to read, as `FrozenScorer` takes it.
    """

    kind = "band"
    vectors: Tensor
    """`[R, L, D]`, signed after validation."""
    layer_of: Tensor
    """`[R]` index of each direction's layer."""

    def __init__(self, lm: LMSpec, *, count: PositiveInt = 200, seed: Seed = 0, **reading: Any) -> None:
        super().__init__(lm, **reading)
        self.count, self.seed = count, seed

    @property
    def columns(self) -> tuple[str, ...]:
        """One per direction."""
        return tuple(f"random_{i}" for i in range(self.count))

    def build(self) -> None:
        """Draws the directions."""
        drawn = random_directions(self.count, self.extractor.layers, self.lm.hidden_size, self.seed)
        self.register_buffer("vectors", drawn)
        self.register_buffer("layer_of", torch.zeros(self.count, dtype=torch.long))

    def choose(self, truth: EvaluationSet) -> str:
        """Gives each direction its layer and sign; the column shown alone is the median one."""
        rho = np.nan_to_num(truth.spearman(to_numpy(self.features["validation"].cosines(self.vectors.cpu()))))
        layer = np.abs(rho).argmax(0)
        best = rho[layer, np.arange(self.count)]
        self.layer_of.copy_(torch.as_tensor(layer))
        self.vectors *= torch.as_tensor(np.where(best < 0, -1.0, 1.0)).to(self.vectors)[:, None, None]
        self.scored["validation"] = to_numpy(self.score_activations(self.features["validation"]))
        return self.columns[int(np.abs(best).argsort()[self.count // 2])]

    def score_activations(self, activations: Activations) -> Tensor:
        """The mean cosine `[N, R]` with each direction at its layer."""
        return activations.cosines(self.vectors.cpu())[:, self.layer_of.cpu(), torch.arange(self.count)]
