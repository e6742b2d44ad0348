"""cache: what is remembered on this machine, how much room it takes, and how to be rid of it."""

import shutil
from json import dumps
from pathlib import Path

from probe.errors import ProbeError, did_you_mean
from probe.lm.sources import cache_folder

HOLDS = {
    "models": "GGUF files, converted once",
    "activations": "what models read, by content; texts steered by the quickstart; read again where it is missing",
    "fits": "finished fits of compare; done again where they are missing",
    "replies.db": "what judges and other models answered; asked, and paid for, again where it is missing",
}
"""Name in the cache folder -> what it holds."""


def run(clear: str | None = None, json: bool = False) -> int:
    """Shows what is remembered, and how much room it takes.

    Args:
        clear: Forget one of these: models, activations, fits, replies.db; or all.
        json: A line of JSON for each, for programs.
    """
    from rich.text import Text

    from probe.show import figures_table
    from probe.shown.terminal import Terminal

    folder, console = cache_folder(), Terminal()
    if clear is not None:
        if clear not in (*HOLDS, "all"):
            raise ProbeError(
                f"--clear {clear}: expected one of {', '.join((*HOLDS, 'all'))}{did_you_mean(clear, list(HOLDS)) or '.'}"
            )
        for name in HOLDS if clear == "all" else (clear,):
            _forget(folder / name)
    sizes = {name: _size(folder / name) for name in HOLDS}
    if json:
        for name, (n_files, n_bytes) in sizes.items():
            print(dumps({"name": name, "folder": str(folder), "files": n_files, "bytes": n_bytes}))
        return 0
    rows: list[list[Text | str]] = [
        [Text(f"{name}: {HOLDS[name]}"), f"{n_files:,}", f"{n_bytes / 1e6:,.0f}"]
        for name, (n_files, n_bytes) in sizes.items()
    ]
    console.print(figures_table(f"{folder} ($PROBE_CACHE names another)", ["", "files", "MB"], rows))
    console.print("Next: probe cache --clear activations")
    return 0


def _size(path: Path) -> tuple[int, int]:
    """Files and bytes."""
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return len(files), sum(file.stat().st_size for file in files)


def _forget(path: Path) -> None:
    try:
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    except OSError as error:
        raise ProbeError(f"{path}: cannot be removed ({error.strerror}); free it, or remove it by hand.") from error
