"""Where a model computes, and in which number type: what is there, and what is fast there."""

import os
import sys

import torch

from probe.errors import ProbeError
from probe.shown.escapes import plain


def device_of(name: str) -> torch.device:
    """The device of that name; `auto` takes CUDA, then Apple's MPS, then the CPU.

    Raises:
        ProbeError: where this machine has none such.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        torch.empty(1, device=name).item()
        return torch.device(name)
    except (RuntimeError, AssertionError, ImportError) as error:  # an unknown one, one not built in, or none there
        reason = str(error).splitlines()[0]
        raise ProbeError(
            f"--lm.device {name}: expected a device of this machine, found none ({reason}); `auto` takes what there is."
        ) from error


def dtype_of(name: str, device: torch.device) -> torch.dtype:
    """`auto` is bfloat16 where the device computes it faster: of CPUs those with AMX.

    AVX512-BF16 alone does not do it: with torch 2.13 such a CPU multiplied at 165 GFLOP/s against 244 to 298 in float32, and
    read a text about half as fast; one without either is several times slower still.
    """
    if name != "auto":
        return getattr(torch, name)  # type: ignore[no-any-return]
    if device.type == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        fast = device.type == "cpu" and torch.cpu._is_amx_tile_supported()
    say(f"--lm.dtype auto: {'bfloat16' if fast else 'float32'}, the fast number type of this {device.type}.")
    return torch.bfloat16 if fast else torch.float32


def say(text: str) -> None:
    """Tells the person at the terminal, once per machine."""
    if os.environ.get("LOCAL_RANK", "0") == "0":
        print(plain(text), file=sys.stderr, flush=True)
