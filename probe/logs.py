"""Folders of runs: which is the newest, and which one is meant by a name; nothing heavy is read."""

import os
import shutil
from pathlib import Path

from probe.errors import ProbeError

LOGS = Path("lightning_logs")
NEWEST = "newest"
DIRECTION, CHECKPOINT, ADAPTER = "direction/direction.json", "checkpoints/last.ckpt", "adapter/adapter.json"
"""What a run may leave, by its file that is written last."""
LEFT_BY = {
    DIRECTION: ("a saved direction", "run `fit` or `try`"),
    CHECKPOINT: ("a checkpoint of `fit`", "run `fit`"),
}


OURS = ("config.yaml", "hparams.yaml", "events.out.tfevents.*")
"""What a run writes before it has found anything."""


def discard_if_empty(folder: Path) -> None:
    """Removes a run's folder that holds nothing but what it began with: no result, no checkpoint, no file of the user's."""
    left = list(folder.iterdir()) if folder.is_dir() else []
    if all(path.is_file() and any(path.match(name) for name in OURS) for path in left):
        shutil.rmtree(folder, ignore_errors=True)


def newest_first(folder: Path, *names: str) -> list[Path]:
    """The files of some names under a folder of runs, the one that was written last at the head."""
    changed = {path: path.stat().st_mtime for name in names for path in folder.rglob(name)}
    return sorted(changed, key=lambda path: (changed[path], str(path)), reverse=True)


def find_run(name: str | Path, *holding: str) -> Path:
    """The folder of the run that is meant, and that holds one of some files, such as its direction's.

    Args:
        name: `newest`; a run's folder, or one inside of it; or how its folder's name ends, such as `probe/version_3`, or the
            name of an experiment, whose newest run is taken.
        holding: The files, as seen from the run's folder, all equally deep.

    Raises:
        ProbeError: where no run is meant, or several are.
    """
    what, how = LEFT_BY[holding[0]]
    asked = Path(name).expanduser()
    if asked.is_dir() and str(name) != NEWEST:
        for folder in (asked, asked.parent):
            if any((folder / file).is_file() for file in holding):
                return folder
        raise ProbeError(f"{name}: expected a run's folder with {what}, found none; `probe runs` lists the runs.")
    runs = list(dict.fromkeys(path.parents[1] for path in newest_first(LOGS, *holding)))
    if not runs:
        raise ProbeError(f"expected {what} under {LOGS}, found none; {how} first, or name a folder.")
    if str(name) == NEWEST:
        return runs[0]
    if named := [run for run in runs if _ends_with(run, asked)]:
        if len(named) > 1:
            several = ", ".join(map(str, named[:4]))
            raise ProbeError(f"--run {name}: expected the name of one run, found {several}; say more of its name.")
        return named[0]
    if of_experiment := [run for run in runs if _ends_with(run.parent, asked)]:
        return of_experiment[0]
    raise ProbeError(
        f"--run {name}: expected a run with {what}, found none of that name; `probe runs` lists them, and {NEWEST} is {runs[0]}."
    )


def direction_folder(direction: str | Path | None, run: str | None = None) -> Path:
    """The folder of the direction that two options mean, `--direction FOLDER` and `--run NAME`; without either the newest.

    `--direction` takes the folder of a direction or of its run.

    Raises:
        ProbeError: where both are given, or no direction is meant.
    """
    if direction and run:
        raise ProbeError(f"expected --direction or --run, found both ({direction}, {run}); leave one out.")
    if not direction:
        return find_run(run or NEWEST, DIRECTION) / Path(DIRECTION).parent
    folder = Path(direction).expanduser()
    within = folder / Path(DIRECTION).parent
    return within if (folder / DIRECTION).is_file() else folder


def adapter_folder(adapter: str | Path) -> Path:
    """The folder of an adapter, whether it is named or that of its run."""
    folder = Path(adapter).expanduser()
    return (folder / ADAPTER).parent if (folder / ADAPTER).is_file() else folder


def _ends_with(path: Path, name: Path) -> bool:
    return bool(name.parts) and path.parts[-len(name.parts) :] == name.parts and os.pardir not in name.parts
