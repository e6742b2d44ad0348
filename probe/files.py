"""Files appear whole or not at all; JSON has no nan: what could not be computed is null."""

import csv
import hashlib
import io
import json
import math
import os
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from probe.errors import ProbeError
from probe.shown.escapes import csv_record

_PACKAGE = Path(__file__).parent
SHIPPED = _PACKAGE / "shipped" if (_PACKAGE / "shipped/configs").is_dir() else _PACKAGE.parent
"""Where `configs/` and `data/` lie: inside an installed wheel, or at the top of a checkout."""


def try_folder(folder: str | Path, option: str) -> Path:
    """Writes a byte into a folder, or to where it would be made, so that no work begins whose result could not be kept.

    Raises:
        ProbeError: where that fails, naming the option that chooses another folder.
    """
    folder = Path(folder)
    try:
        there = next(path for path in (folder, *folder.parents) if path.exists())
        with tempfile.TemporaryFile(dir=there, buffering=0) as file:
            file.write(b"\0")
    except OSError as error:
        raise ProbeError(
            f"{folder}: cannot be written to ({error.strerror}); free it, or choose another {option}."
        ) from error
    return folder


def try_file(path: str | Path, option: str) -> Path:
    """Tries the folder of a file that is to be written, as `try_folder` does, but makes none.

    Raises:
        ProbeError: where its folder is missing or cannot be written to, or where something else stands in its place.
    """
    real = Path(os.path.realpath(path))
    if not real.parent.is_dir():
        raise ProbeError(f"{option} {path}: expected its folder to be there, found none; make it first.")
    if real.exists() and not real.is_file():
        raise ProbeError(f"{option} {path}: expected a file, or none yet, found a folder or device; name another.")
    try_folder(real.parent, option)
    return Path(path)


def atomic_write(path: Path, write: Callable[[Path], object]) -> None:
    """Writes a file under a temporary name in its own folder, flushes it to the disk and renames it into place.

    Raises:
        ProbeError: where that fails, as on a full disk; what stood there before is left as it was.
    """
    temporary, real = None, Path(os.path.realpath(path))  # a link stays one
    try:
        descriptor, name = tempfile.mkstemp(dir=real.parent, prefix=f".{real.name}.")
        os.close(descriptor)
        temporary = Path(name)
        write(temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(real)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ProbeError(f"{path}: cannot be written ({reason}); free space there, or name another folder.") from error
    finally:
        if temporary:
            temporary.unlink(missing_ok=True)


def new_version(folder: Path) -> Path:
    """Makes the next `version_N` in a folder, numbered as Lightning's loggers do; two processes get two."""
    folder.mkdir(parents=True, exist_ok=True)
    taken = [int(name) for path in folder.glob("version_*") if (name := path.name.removeprefix("version_")).isdigit()]
    path = folder / f"version_{max(taken, default=-1) + 1}"
    try:
        path.mkdir()
    except FileExistsError:
        return new_version(folder)
    return path


def shipped(name: str | Path) -> Path:
    """A file or folder as it is named, where it is there; else the one of that name that comes with this project."""
    path = Path(name).expanduser()
    return next((place for place in (path, SHIPPED / path) if place.exists()), path)


def from_json(text: str | bytes) -> Any:
    """The value of a JSON text; what nests too deep to be one is a ValueError, as any other damage is."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error


def write_json(path: Path, value: Any) -> None:
    """Writes a value as JSON."""
    text = json.dumps(without_nan(value), indent=2, allow_nan=False) + "\n"
    atomic_write(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def write_json_lines(path: Path, records: Iterable[Any]) -> None:
    """Writes one JSON object a line."""
    lines = [json.dumps(without_nan(record), ensure_ascii=False, allow_nan=False) + "\n" for record in records]
    atomic_write(path, lambda temporary: temporary.write_text("".join(lines), encoding="utf-8", newline="\n"))


def write_csv(path: Path, records: Sequence[Mapping[str, Any]]) -> None:
    """Writes a table with a header; all records have the keys of the first."""
    table = io.StringIO(newline="")
    safe = [csv_record(record) for record in records]
    writer = csv.DictWriter(table, list(safe[0]))
    writer.writeheader()
    writer.writerows(safe)
    atomic_write(path, lambda temporary: temporary.write_text(table.getvalue(), encoding="utf-8", newline=""))


def fingerprint(value: Any) -> str:
    """sha256 of a JSON value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def without_nan(value: Any) -> Any:
    """The value with null in place of what is no number, which JSON cannot hold."""
    if isinstance(value, dict):
        return {str(key): without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
