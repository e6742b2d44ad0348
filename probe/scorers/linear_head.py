"""What the learned linear probes share: a weight for each standardised feature of each layer, and an intercept."""

import torch
from torch import Tensor

from probe.activations.pooling import Activations
from probe.scorers.directional import DirectionalScorer


class LinearHead(DirectionalScorer):
    """A probe w . (h - centre) / scale + bias at each layer."""

    bias: torch.nn.Parameter
    centre: Tensor
    scale: Tensor

    def build(self) -> None:
        """Adds the intercepts and the standardisation."""
        super().build()
        self.bias = torch.nn.Parameter(torch.zeros(len(self.weight)))
        self.register_buffer("centre", torch.zeros_like(self.weight))
        self.register_buffer("scale", torch.ones_like(self.weight))

    def standardise(self, x: Tensor) -> Tensor:
        """Takes centre and scale from training states `[N, L, D]`, and returns these standardised."""
        self.centre.copy_(x.mean(0))
        self.scale.copy_(x.std(0, correction=0).clamp_min(1e-12))
        return (x.to(self.device) - self.centre) / self.scale

    def unit_vectors(self) -> Tensor:
        """The coefficients taken back to the residual stream's own coordinates, w / scale, normalised."""
        return torch.nn.functional.normalize(self.weight / self.scale, dim=-1)

    def score_activations(self, activations: Activations) -> Tensor:
        """What each layer's probe says."""
        z = (activations.pooled(self.pooling) - self.centre.cpu()) / self.scale.cpu()
        return torch.einsum("nld,ld->nl", z, self.weight.detach().cpu()) + self.bias.detach().cpu()
