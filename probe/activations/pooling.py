"""Three ways in which a text's states become one vector, all taken in the one pass in which it is read."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from probe.data.reading import Pooling

POOLINGS: tuple[Pooling, ...] = ("last", "mean", "unit_mean")


@dataclass(frozen=True)
class Activations:
    """Pooled residual states of N texts at L layers, each text's where the store has it: in memory, or mapped from a file.

    What is asked for is put together then, so that only that is held, however many texts there are.
    """

    entries: Sequence[Tensor]
    """Of each text `[3, L, D]`, float32: h at the last token of the span, the mean of h over it, and the mean of h/|h|."""
    n_tokens: Tensor
    """`[N]` tokens in the span."""
    layers: tuple[int, ...]
    width: int
    """D"""

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, rows: Tensor) -> "Activations":
        return Activations([self.entries[i] for i in rows.tolist()], self.n_tokens[rows], self.layers, self.width)

    def pooled(self, pooling: Pooling) -> Tensor:
        """One pooling `[N, L, D]` by name."""
        states = [entry[POOLINGS.index(pooling)] for entry in self.entries]
        return torch.stack(states) if states else torch.empty(0, len(self.layers), self.width)

    def at(self, layer: int, pooling: Pooling) -> Tensor:
        """One pooling `[N, D]` at one block."""
        place = POOLINGS.index(pooling), self.layers.index(layer)
        return torch.stack([entry[place] for entry in self.entries]) if self.entries else torch.empty(0, self.width)

    def by_layer(self, pooling: Pooling) -> Iterator[Tensor]:
        """One pooling `[N, D]` at one block after the other."""
        return (self.at(layer, pooling) for layer in self.layers)

    def cosines(self, vectors: Tensor) -> Tensor:
        """Mean cosines `[N, L, R]` of the texts' states with R unit vectors `[R, L, D]` at each block.

        mean_t cos(h_t, a) = a . mean_t(h_t / |h_t|).
        """
        of_layer = zip(self.by_layer("unit_mean"), vectors.unbind(1), strict=True)
        return torch.stack([unit_mean @ v.to(unit_mean).T for unit_mean, v in of_layer], 1)


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
