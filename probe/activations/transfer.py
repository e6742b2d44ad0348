"""From the device to memory while the device goes on: a batch is copied as the next one is computed."""

from collections.abc import Iterator
from typing import TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


def to_host(batches: Iterator[tuple[T, Tensor]]) -> Iterator[tuple[T, Tensor]]:
    """Yields each batch with its tensor in memory; on CUDA one batch late, when the next one has been started."""
    before: tuple[T, Tensor, torch.cuda.Event] | None = None
    for what, tensor in batches:
        if tensor.device.type != "cuda":
            yield what, tensor.cpu()
            continue
        # Only into pinned memory does a copy not wait; in the stream it stands before what is computed next.
        host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True).copy_(tensor, non_blocking=True)
        copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
        copied.record()
        if before:
            yield _arrived(*before)
        before = what, host, copied
    if before:
        yield _arrived(*before)


def _arrived(what: T, host: Tensor, copied: torch.cuda.Event) -> tuple[T, Tensor]:
    copied.synchronize()
    return what, host
