"""Files appear whole or not at all; JSON has no nan: what could not be computed is null."""

import csv
import io
import json
import math
import os
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any


def atomic_write(path: Path, write: Callable[[Path], object]) -> None:
    """Writes a file under a temporary name in its own folder, flushes it to the disk and renames it into place."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(descriptor)
    temporary = Path(name)
    try:
        write(temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


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
    writer = csv.DictWriter(table, list(records[0]))
    writer.writeheader()
    writer.writerows(records)
    atomic_write(path, lambda temporary: temporary.write_text(table.getvalue(), encoding="utf-8", newline=""))


def without_nan(value: Any) -> Any:
    """The value with null in place of what is no number, which JSON cannot hold."""
    if isinstance(value, dict):
        return {str(key): without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
