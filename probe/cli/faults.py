"""Which exceptions are no fault of ours: what people gave, disks, Lightning's options, damaged checkpoints; in one sentence."""

import errno
import traceback
from pathlib import Path
from types import FrameType

from probe.errors import ProbeError

DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)
"""Faults of a disk; whoever writes through several layers is not told at which file."""


def probe_error(error: BaseException) -> ProbeError | None:
    """The ProbeError, or what can be said in its place, behind an exception: jsonargparse and Lightning wrap what is raised."""
    chain: list[BaseException] = []
    link: BaseException | None = error
    # an exception of another thread, raised again, can stand behind itself
    while link is not None and link not in chain:
        chain.append(link)
        link = link.__cause__ or link.__context__
    for link in chain:
        if isinstance(link, ProbeError):
            return link
    for link in chain:
        if isinstance(link, OSError) and (link.errno in DISK or (link.filename and link is error)):
            file = link.filename or "a file of this run"
            return ProbeError(f"{file}: {link.strerror}; free it, or name another file or folder.")
    for link in chain:
        reason = " ".join(str(link).split())
        frames = [frame for frame, _ in traceback.walk_tb(link.__traceback__)]
        if any(map(_restores, frames)):
            return ProbeError(
                f"--ckpt_path: expected a checkpoint that `fit` left, found one that cannot be gone on from "
                f"({type(link).__name__}: {reason[:160]}); name another."
            )
        # Lightning's callbacks know what they were not given.
        if type(link).__name__ == "MisconfigurationException" or (frames and "pytorch/callbacks" in _file(frames[-1])):
            return ProbeError(f"trainer: {reason}")
    return None


def _restores(frame: FrameType) -> bool:
    """Whether Lightning is just taking a checkpoint apart."""
    return "connectors/checkpoint_connector" in _file(frame) and "restore" in frame.f_code.co_name


def _file(frame: FrameType) -> str:
    return Path(frame.f_code.co_filename).as_posix()
