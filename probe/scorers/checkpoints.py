"""Checkpoints at the door: read without pickle, whole and finite, and of which run."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from probe.data.reading import identity
from probe.data.splits import SplitRows
from probe.errors import ProbeError
from probe.files import fingerprint
from probe.logs import CHECKPOINT, newest_first

Checkpoint = dict[str, Any]
NEEDED = ("state_dict", "scorer", "epoch", "global_step", "loops", "callbacks", "pytorch-lightning_version")
"""What a run continues from; `scorer` is ours, and says what the weights mean."""


class NothingToResumeError(ProbeError):
    """No checkpoint is of this run."""


def read_checkpoint(path: Path) -> Checkpoint:
    """Reads a checkpoint that `fit` left.

    Raises:
        ProbeError: for a file that is cut off, no checkpoint or not ours, and for weights that are no finite numbers.
    """
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        _check(checkpoint)
    except Exception as error:  # what is no checkpoint can fail to load in any way
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise ProbeError(
            f"{path}: expected a whole checkpoint of `fit`, found none ({reason[:160]}); "
            "--ckpt_path last takes the newest of this run."
        ) from error
    return dict(checkpoint)


def _check(checkpoint: Any) -> None:
    if not isinstance(checkpoint, dict):
        raise ValueError(f"it holds a {type(checkpoint).__name__}")
    if missing := [name for name in NEEDED if name not in checkpoint]:
        raise ValueError(f"it lacks {missing[0]}")
    if not all(isinstance(checkpoint[name], dict) for name in ("state_dict", "scorer")):
        raise ValueError("its state_dict or scorer is no mapping")
    if not all(type(checkpoint[name]) is int and checkpoint[name] >= 0 for name in ("epoch", "global_step")):
        raise ValueError("its epoch or global_step is no count")
    weights = [
        *checkpoint["state_dict"].items(),
        *_tensors(checkpoint.get("best")),
        *_tensors(checkpoint.get("optimizer_states")),
    ]
    for name, value in weights:
        if not isinstance(value, Tensor) or not value.isfinite().all():
            raise ValueError(f"{name} holds something else than finite numbers")


def _tensors(value: Any, name: str = "the training's state") -> Iterable[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield name, value
    elif isinstance(value, Mapping | list | tuple):
        for inner in value.values() if isinstance(value, Mapping) else value:
            yield from _tensors(inner, name)


def check_shapes(found: Mapping[str, Tensor], ours: Mapping[str, Tensor]) -> None:
    """Raises ProbeError unless a checkpoint holds our tensors, by name, number type and shape."""
    kinds, expected = ({name: (t.dtype, tuple(t.shape)) for name, t in state.items()} for state in (found, ours))
    for name in dict.fromkeys((*expected, *kinds)):
        if kinds.get(name) != expected.get(name):
            (wanted, shape), (dtype, theirs) = (kind.get(name, (None, None)) for kind in (expected, kinds))
            types = "" if wanted == dtype or None in (wanted, dtype) else f" ({dtype} in place of {wanted})"
            raise ProbeError(
                f"the checkpoint does not fit: expected `{name}` of shape {shape}, found {theirs}{types}; name one that `fit` "
                "left."
            )


def check_epochs(checkpoint: Checkpoint, most: int | None) -> None:
    """Raises ProbeError where a checkpoint has learned for longer than is asked for; to go on from it for more is exact."""
    done = checkpoint["epoch"] + 1
    if most is not None and 0 <= most < done:
        raise ProbeError(
            f"the checkpoint has {done} epochs behind it, more than trainer.max_epochs {most}; ask for {done} or more."
        )


def differences(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> str:
    """What two identities differ in, with both values; empty where they agree."""
    return ", ".join(
        f"another {name} (found {_short(theirs.get(name))}, the config says {_short(ours.get(name))})"
        for name in dict.fromkeys((*ours, *theirs))
        if theirs.get(name) != ours.get(name)
    )


def _short(value: Any) -> str:
    text = repr(value)  # a hash is told by its ends
    return text if len(text) <= 40 else f"{text[:12]}...{text[-12:]}" if isinstance(value, str) else f"{text[:37]}..."


def newest_checkpoint(folder: Path, identity: Callable[[], Mapping[str, Any]]) -> Path:
    """The newest `last.ckpt` under a folder that is of this run: made with the same data, settings and model.

    Raises:
        NothingToResumeError: where there is none, with what is different about the newest.
    """
    paths = newest_first(folder, Path(CHECKPOINT).name)
    if not paths:
        raise NothingToResumeError(f"expected a checkpoint of this run under {folder}, found none; run `fit` first.")
    ours, reasons = identity(), list[str]()
    for path in paths:
        try:
            theirs = read_checkpoint(path)["scorer"]
        except ProbeError as error:
            reasons.append(str(error))
            continue
        if not (reason := differences({k: v for k, v in theirs.items() if k != "chosen"}, ours)):
            return path
        reasons.append(f"{path} was made with {reason}")
    raise NothingToResumeError(
        f"expected a checkpoint of this run under {folder}, found {len(paths)} of others: {reasons[0]}; "
        "give the settings that it was made with, or fit anew."
    )


def learned_from(data: SplitRows) -> dict[str, Any]:
    """What identifies the rows that were learned from, or chosen on."""
    return {
        "data_fingerprint": fingerprint([identity(example) for example in data.examples]),
        "validation_fingerprint": fingerprint([identity(row) for row in data.rows["validation"]]),
        "data_seed": data.seed,
    }
