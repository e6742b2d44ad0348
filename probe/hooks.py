"""The only forward hooks of the project: read the residual stream, add to it, take a direction out of it.

Every function is a context manager over decoder blocks; on exit, an exception included, no hook is left.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn


class _DeepestReached(Exception):  # noqa: N818  (control flow, caught by record())
    pass


@contextmanager
def record(blocks: Mapping[int, nn.Module], read: Callable[[int, Tensor], None]) -> Iterator[None]:
    """Calls `read(k, h)` with the output `[B, T, D]` of each block k; stops the forward pass after the deepest.

    The statement in which the forward pass was stopped does not return, so keep only that call in the `with` body.
    """
    deepest = max(blocks)

    def hook_of(k: int) -> Callable[..., None]:
        def hook(_module: nn.Module, _args: Any, output: Any) -> None:
            read(k, _residual(output))
            if k == deepest:
                raise _DeepestReached

        return hook

    with ExitStack() as stack:
        for k, block in blocks.items():
            stack.callback(block.register_forward_hook(hook_of(k)).remove)
        with suppress(_DeepestReached):
            yield


Tokens = Literal["all", "prompt", "generated"]
"""Which tokens are steered, in generation."""


@contextmanager
def add(deltas: Mapping[nn.Module, Tensor], tokens: Tokens | Tensor = "all") -> Iterator[None]:
    """Steers: h <- h + delta after each block; a delta is `[D]`, or `[B, D]` for one per row.

    Args:
        deltas: Block -> delta.
        tokens: In generation all tokens, those of the prompt, or those generated, with the KV cache or without; for a
            single forward pass also a mask `[B, T]`, 1 where to steer.

    Source: Olson et al. 2024, arXiv 2412.06060, section 3.
    """

    def steering(delta: Tensor) -> Callable[[Tensor], Tensor]:
        where = _Where(tokens)

        def steer(h: Tensor) -> Tensor:
            change = delta.to(h)
            change = change[:, None, :] if change.ndim == 2 else change
            mask = where(h)
            return h + (change if mask is None else change * mask)

        return steer

    with _edit({block: steering(delta) for block, delta in deltas.items()}):
        yield


class _Where:
    """Tells the steered positions of each forward pass of one generation: the first pass is the prompt."""

    def __init__(self, tokens: Tokens | Tensor) -> None:
        self.tokens, self.width, self.seen = tokens, 0, 0

    def __call__(self, h: Tensor) -> Tensor | None:
        """Mask `[B, T, 1]` or `[T, 1]`; None for all."""
        if isinstance(self.tokens, torch.Tensor):
            return self.tokens.to(h)[..., None]
        if self.tokens == "all":
            return None
        width = h.shape[1]
        first = self.seen if self.width > 0 and width <= self.width else 0  # without a cache all positions come again
        self.width, self.seen = self.width or width, first + width
        positions = torch.arange(first, first + width, device=h.device)
        inside = positions < self.width if self.tokens == "prompt" else positions >= self.width
        return inside.to(h)[:, None]


@contextmanager
def ablate(directions: Mapping[nn.Module, Tensor]) -> Iterator[None]:
    """Takes a unit direction a out of each block's output: h <- h - a (a . h); a is `[D]`, or `[B, D]` for one per row.

    A row of zeros takes nothing out. Source: Arditi et al. 2024, arXiv 2406.11717, equation 4.
    """

    def remove(h: Tensor, a: Tensor) -> Tensor:
        a = a.to(h)
        return h - (h @ a[..., None]) * a[..., None, :]

    with _edit({block: partial(remove, a=direction) for block, direction in directions.items()}):
        yield


@contextmanager
def _edit(edits: Mapping[nn.Module, Callable[[Tensor], Tensor]]) -> Iterator[None]:
    def hook_of(edit: Callable[[Tensor], Tensor]) -> Callable[..., Any]:
        def hook(_module: nn.Module, _args: Any, output: Any) -> Any:
            edited = edit(_residual(output))
            # By family and version of transformers a block returns (h, ...) or h: give back what the next one expects.
            return edited if isinstance(output, Tensor) else (edited, *output[1:])

        return hook

    with ExitStack() as stack:
        for block, edit in edits.items():
            stack.callback(block.register_forward_hook(hook_of(edit)).remove)
        yield


def _residual(output: Any) -> Tensor:
    h: Tensor = output if isinstance(output, torch.Tensor) else output[0]
    return h
