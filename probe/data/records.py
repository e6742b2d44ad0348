"""What stands in a file, record by record, each with its place, before anybody judges it; read as it is asked for."""

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from probe.errors import ProbeError
from probe.files import from_json


def json_records(path: Path) -> Iterator[tuple[Any, str]]:
    """The values of a file of JSON lines, each with file and line."""
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            place = f"{path}:{number}"
            try:
                yield from_json(line), place
            except ValueError as error:  # JSONDecodeError and UnicodeDecodeError are ValueErrors
                beginning = line.rstrip(b"\r\n")[:60]
                raise ProbeError(f"{place}: expected one JSON object a line, found {beginning!r} ({error}).") from error


def csv_records(path: Path) -> Iterator[tuple[dict[str, str], str]]:
    """The rows of a CSV file with a header as they are, each with file and line."""
    try:
        # A byte order mark, as spreadsheets write it, is not part of the first column's name.
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            for record in reader:
                place = f"{path}:{reader.line_num}"
                if None in record:
                    raise ProbeError(
                        f"{place}: more cells than columns in the header; put quotes around text with commas."
                    )
                yield {name: value or "" for name, value in record.items()}, place
    except (UnicodeDecodeError, csv.Error) as error:
        raise ProbeError(f"{path}: expected CSV in UTF-8 with a header, but {error}; save it again as such.") from error
