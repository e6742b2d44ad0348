"""The file of scores: it grows chunk by chunk, and one that was cut off is gone on from where its last whole chunk ends."""

import csv
import io
import json
import math
import os
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from probe.errors import ProbeError
from probe.files import from_json, without_nan
from probe.shown.escapes import csv_cell

ADDED = ("score", "percentile")
Record = dict[str, Any]


class Old(NamedTuple):
    """A record that was written before."""

    own: list[str]
    """All but the score, as it is written."""
    score: float
    end: int
    """The byte at which it ends."""


class ScoreFile:
    """Scores in JSON lines or in CSV, by the file's suffix.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        if path.suffix.lower() not in (".jsonl", ".csv"):
            raise ProbeError(f"--output {path}: expected a name that ends in .jsonl or .csv, found another; rename it.")
        self.path, self.is_csv = path, path.suffix.lower() == ".csv"
        self.columns: list[str] = []
        self.kept = 0
        """Bytes that stay."""
        self._old = self._read() if path.exists() else iter(())

    def recall(self, records: Sequence[Record]) -> list[float] | None:
        """The scores of the next records, which the file holds already; None where it ends before the last of them.

        Raises:
            ProbeError: where it holds something else.
        """
        remembered = list(islice(self._old, len(records)))
        if any(old.own != self._own(new) for old, new in zip(remembered, records, strict=False)):
            raise self.refusal("scores of other texts")
        if len(remembered) < len(records):
            return None
        self.kept = remembered[-1].end
        return [old.score for old in remembered]

    def check_ends(self) -> None:
        """Raises ProbeError where the file holds more than was asked for."""
        if next(self._old, None):
            raise self.refusal("more of them than texts")

    def refusal(self, found: str) -> ProbeError:
        """What to say of a file that is another's."""
        return ProbeError(
            f"--output {self.path}: expected no file, or the beginning of what this command writes, found {found}; name "
            "another."
        )

    def append(self, records: Sequence[Record], scores: Sequence[tuple[float, float]]) -> None:
        """Puts records, each with score and percentile, behind what is kept, onto the disk.

        Raises:
            ProbeError: for a record with other fields than the first, where the file is CSV; or where the disk is full.
        """
        written = (self._as_csv if self.is_csv else _as_json)(records, scores).encode()
        try:
            with self.path.open("r+b" if self.path.exists() else "wb") as file:
                file.truncate(self.kept)
                file.seek(self.kept)
                file.write(written)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise ProbeError(
                f"{self.path}: cannot be written ({error.strerror}); free space there and give the same command again."
            ) from error
        self.kept += len(written)

    def _as_csv(self, records: Sequence[Record], scores: Sequence[tuple[float, float]]) -> str:
        text = io.StringIO(newline="")
        writer = csv.writer(text)
        if not self.kept:
            self.columns = [csv_cell(name) for name in (*records[0], *ADDED)]
            writer.writerow(self.columns)
        for record, added in zip(records, scores, strict=True):
            if [csv_cell(name) for name in record] != self.columns[:-2]:
                raise ProbeError(
                    f"--output {self.path}: expected rows with the fields {self.columns[:-2]}, found {list(record)}, which makes "
                    "no table; write to a .jsonl file."
                )
            writer.writerow([*self._own(record), *map(_cell, added)])
        return text.getvalue()

    def _own(self, record: Record) -> list[str]:
        return [_cell(value) for value in record.values()] if self.is_csv else [_json(record)]

    def _read(self) -> Iterator[Old]:
        """Whole records; what was cut off at the end is left out."""
        with self.path.open("rb") as file:
            try:
                yield from self._read_csv(_Counted(file)) if self.is_csv else _read_json(_Counted(file))
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise self.refusal("something else") from error

    def _read_csv(self, lines: "_Counted") -> Iterator[Old]:
        reader = csv.reader(lines, strict=True)
        while (row := _next_row(reader)) is not None and lines.last.endswith("\n"):
            if len(row) < len(ADDED) or (self.columns and len(row) != len(self.columns)):
                raise ValueError("no row of scores")
            if not self.columns and tuple(row[-2:]) != ADDED:
                raise ValueError("no header of scores")
            if self.columns:
                yield Old(row[:-2], float(row[-2] or "nan"), lines.end)
            self.columns = self.columns or row


class _Counted:
    """Lines of a file as text, which say how many bytes they took so far."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.end, self.last = file, 0, ""

    def __iter__(self) -> Iterator[str]:
        for line in self.file:
            self.end += len(line)
            self.last = line.decode("utf-8", "strict" if line.endswith(b"\n") else "replace")
            yield self.last


def _read_json(lines: _Counted) -> Iterator[Old]:
    for line in lines:
        if not line.endswith("\n"):
            return
        record = from_json(line)
        score = record.pop(ADDED[0])
        record.pop(ADDED[1])
        yield Old([_json(record)], math.nan if score is None else float(score), lines.end)


def _next_row(reader: Iterator[list[str]]) -> list[str] | None:
    try:
        return next(reader, None)
    except csv.Error:  # cut off inside of a cell
        return None


def _as_json(records: Sequence[Record], scores: Sequence[tuple[float, float]]) -> str:
    return "".join(
        f"{_json(record | dict(zip(ADDED, added, strict=True)))}\n"
        for record, added in zip(records, scores, strict=True)
    )


def _json(value: Any) -> str:
    return json.dumps(without_nan(value), ensure_ascii=False, allow_nan=False)


def _cell(value: Any) -> str:
    if isinstance(value, str):
        return str(csv_cell(value))
    return "" if without_nan(value) is None else _json(value)
