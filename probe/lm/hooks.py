"""The only forward hooks of the project: read the residual stream, and edit it.

Every function is a context manager over decoder blocks; on exit, an exception included, no hook is left.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import torch
from torch import Tensor, nn

from probe.lm.operators import Operator, plus
from probe.lm.spec import Tokens


class _DeepestReached(Exception):  # noqa: N818  (control flow, caught by record())
    pass


@contextmanager
def record(blocks: Mapping[int, nn.Module], read: Callable[[int, Tensor], None], stop: bool = True) -> Iterator[None]:
    """Calls `read(k, h)` with the output `[B, T, D]` of each block k; unless told not to, stops the pass after the deepest.

    The statement in which the forward pass was stopped does not return, so keep only that call in the `with` body.
    """
    deepest = max(blocks)

    def hook_of(k: int) -> Callable[..., None]:
        def hook(_module: nn.Module, _args: Any, output: Any) -> None:
            read(k, _residual(output))
            if stop and k == deepest:
                raise _DeepestReached

        return hook

    with ExitStack() as stack:
        for k, block in blocks.items():
            stack.callback(block.register_forward_hook(hook_of(k)).remove)
        with suppress(_DeepestReached):
            yield


@contextmanager
def edit(
    vectors: Mapping[nn.Module, Tensor], operator: Operator = plus, tokens: Tokens | Tensor = "all"
) -> Iterator[None]:
    """Steers: h <- operator(h, v) after each block, at the tokens that are meant and in the rows that have a vector.

    Args:
        vectors: Block -> v `[D]`, or `[B, D]` for one per row; a row of zeros is left bit by bit.
        operator: What is done.
        tokens: In generation all tokens, those of the prompt, or those generated, with the KV cache or without; for a
            single forward pass also a mask `[B, T]`, 1 where to steer.
    """

    def hook_of(v: Tensor) -> Callable[..., Any]:
        where, rows = _Where(tokens), (v != 0).any(-1, keepdim=True)
        v, rows = (v[:, None], rows[:, None]) if v.ndim == 2 else (v, rows)
        every_row = bool(rows.all())

        def hook(_module: nn.Module, _args: Any, output: Any) -> Any:
            h = _residual(output)
            inside = where(h)
            edited = operator(h, v.to(h))
            if not every_row:
                inside = rows.to(h.device) if inside is None else inside & rows.to(h.device)
            if inside is not None:
                edited = torch.where(inside, edited, h)
            # By family and version of transformers a block returns (h, ...) or h: give back what the next one expects.
            return edited if isinstance(output, Tensor) else (edited, *output[1:])

        return hook

    with ExitStack() as stack:
        for block, v in vectors.items():
            stack.callback(block.register_forward_hook(hook_of(v)).remove)
        yield


class _Where:
    """Tells the steered positions of each forward pass of one generation: the first pass is the prompt."""

    def __init__(self, tokens: Tokens | Tensor) -> None:
        self.tokens, self.width, self.seen = tokens, 0, 0

    def __call__(self, h: Tensor) -> Tensor | None:
        """Whether, `[B, T, 1]` or `[T, 1]`; None for all."""
        if isinstance(self.tokens, torch.Tensor):
            return self.tokens.to(h.device)[..., None] != 0
        if self.tokens == "all":
            return None
        width = h.shape[1]
        first = self.seen if self.width > 0 and width <= self.width else 0  # without a cache all positions come again
        self.width, self.seen = self.width or width, first + width
        positions = torch.arange(first, first + width, device=h.device)
        inside = positions < self.width if self.tokens == "prompt" else positions >= self.width
        return inside[:, None]


def _residual(output: Any) -> Tensor:
    h: Tensor = output if isinstance(output, torch.Tensor) else output[0]
    return h


@contextmanager
def head_at(head: nn.Module | None, mask: Tensor) -> Iterator[None]:
    """Lets the head see only the n states where a mask `[B, T]` is 1, as one row `[1, n, D]`."""

    def pick(_module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (args[0][mask][None], *args[1:])

    handle = head.register_forward_pre_hook(pick) if head else None
    try:
        yield
    finally:
        if handle:
            handle.remove()


@contextmanager
def contiguous(head: nn.Module | None) -> Iterator[None]:
    """Hands the head its states in one piece: of a slice, CPUs multiply the head's whole weight once a row."""
    handle = head.register_forward_pre_hook(lambda _, args: (args[0].contiguous(), *args[1:])) if head else None
    try:
        yield
    finally:
        if handle:
            handle.remove()
