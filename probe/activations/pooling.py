"""Three ways in which a text's states become one vector, all taken in the one pass in which it is read."""

from dataclasses import dataclass

import torch
from torch import Tensor

from probe.data.reading import Pooling

POOLINGS: tuple[Pooling, ...] = ("last", "mean", "unit_mean")


@dataclass(frozen=True)
class Activations:
    """Pooled residual states of N texts at L layers."""

    last: Tensor
    """`[N, L, D]` h at the last token of the span."""
    mean: Tensor
    """`[N, L, D]` mean of h over the span."""
    unit_mean: Tensor
    """`[N, L, D]` mean of h/|h| over the span: its product with a unit direction is the paper's score."""
    n_tokens: Tensor
    """`[N]` tokens in the span."""
    layers: tuple[int, ...]

    def __getitem__(self, rows: Tensor) -> "Activations":
        return Activations(self.last[rows], self.mean[rows], self.unit_mean[rows], self.n_tokens[rows], self.layers)

    def pooled(self, pooling: Pooling) -> Tensor:
        """One pooling `[N, L, D]` by name."""
        tensor: Tensor = getattr(self, pooling)
        return tensor


class Spans:
    """What pools the states of a batch, made once for all its layers.

    Args:
        mask: `[B, S, T]`, 1 on the tokens of each of the S spans of a row.
    """

    def __init__(self, mask: Tensor) -> None:
        self.weights = mask.float() / mask.sum(-1, keepdim=True).clamp_min(1)
        self.last = (mask * torch.arange(1, mask.shape[-1] + 1, device=mask.device)).argmax(-1)

    def __call__(self, h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Pools states `[B, T, D]` into `last`, `mean`, `unit_mean`, each `[B, S, D]` float32."""
        h = h.float()
        last = h[torch.arange(len(h), device=h.device)[:, None], self.last]
        # Norms go into the weights, so h/|h| is never stored: [B, S, T] @ [B, T, D].
        unit_weights = self.weights / h.norm(dim=-1).clamp_min(torch.finfo(torch.float32).tiny)[:, None, :]
        with torch.autocast(h.device.type, enabled=False):  # mixed precision would round the products
            return last, self.weights @ h, unit_weights @ h


def pool(h: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Pools `[B, T, D]` states over a `[B, T]` mask into `last`, `mean`, `unit_mean`, each `[B, D]` float32."""
    last, mean, unit_mean = Spans(mask[:, None])(h)
    return last[:, 0], mean[:, 0], unit_mean[:, 0]
