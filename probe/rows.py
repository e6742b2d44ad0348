"""Rows: what a person brings, read from JSONL or CSV and checked line by line before anything expensive starts."""

import csv
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any, Literal, TypeVar

from probe.errors import ProbeError

Span = Literal["prompt", "response"]
"""Where activations are read: over the instruction, or over the text written in answer to it."""
Pooling = Literal["last", "mean", "unit_mean"]
"""How the states of a span become one vector."""


@dataclass(frozen=True)
class TextPair:
    """Two contrastive instructions, and optionally the text each one led to."""

    creative: str
    uncreative: str
    group: str
    """The topic: the unit of splitting and of the bootstrap."""
    response_creative: str | None = None
    response_uncreative: str | None = None


@dataclass(frozen=True)
class RatedText:
    """A text with a rating, higher = more creative, and the instruction it answers, if known."""

    text: str
    rating: float
    """A judgement; or, where nobody judged, the field `intended_level`: what the writer meant."""
    group: str
    prompt: str = "Write a story."
    raters: Mapping[str, float] | None = None
    """Each rater's own rating, where several people rated; in CSV one column `rater_NAME` each, empty if they did not."""


@dataclass(frozen=True)
class Preference:
    """Two texts, and which of them people found more creative."""

    text_a: str
    text_b: str
    preferred: Literal["a", "b", "tie"]
    group: str
    prompt: str = "Write a story."


@dataclass(frozen=True)
class StoryPrompt:
    """A creative instruction whose uncreative counterpart is still to be written."""

    creative: str
    group: str


@dataclass(frozen=True)
class Passage:
    """What the LM reads; the pooled span is the response where there is one, else the prompt."""

    prompt: str
    response: str | None = None

    @property
    def pooled(self) -> str:
        """The text of the pooled span."""
        return self.prompt if self.response is None else self.response


RowT = TypeVar("RowT", TextPair, RatedText, Preference, StoryPrompt)


def read_rows(path: str | Path, kind: type[RowT]) -> list[RowT]:
    """Reads one row type from a JSONL file, or from a CSV file with a header; further fields are ignored.

    Raises:
        ProbeError: naming file and line, for anything that is not a complete, non-empty row.
    """
    path = Path(path)
    if not path.is_file():
        raise ProbeError(f"{path}: no such file; check the path in the `data` section of the config.")
    records = _csv_records(path) if path.suffix.lower() == ".csv" else _json_records(path)
    rows = [_row(record, kind, where) for record, where in records]
    if not rows:
        raise ProbeError(f"{path}: expected rows with {_expected(kind)}, found an empty file; give one with rows.")
    return rows


def _json_records(path: Path) -> Iterator[tuple[Any, str]]:
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        where = f"{path}:{number}"
        try:
            yield json.loads(line), where
        except (ValueError, RecursionError) as error:  # JSONDecodeError and UnicodeDecodeError are ValueErrors
            raise ProbeError(f"{where}: expected one JSON object a line, found {line[:60]!r} ({error}).") from error


def _csv_records(path: Path) -> Iterator[tuple[Any, str]]:
    try:
        # A byte order mark, as spreadsheets write it, is not part of the first column's name.
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            for record in reader:
                where = f"{path}:{reader.line_num}"
                if None in record:
                    raise ProbeError(
                        f"{where}: more cells than columns in the header; put quotes around text with commas."
                    )
                filled = {name: value for name, value in record.items() if value}
                raters = {name[6:]: _cell(value) for name, value in filled.items() if name.startswith("rater_")}
                rating = {"rating": _cell(filled["rating"])} if "rating" in filled else {}
                yield filled | rating | ({"raters": raters} if raters else {}), where
    except (UnicodeDecodeError, csv.Error) as error:
        raise ProbeError(f"{path}: expected CSV in UTF-8 with a header, but {error}; save it again as such.") from error


def _cell(value: str) -> float | str:
    try:
        return float(value)
    except ValueError:
        return value


def _row(record: Any, kind: type[RowT], where: str) -> RowT:
    if not isinstance(record, dict):
        raise ProbeError(f"{where}: expected a JSON object with {_expected(kind)}, found {type(record).__name__}.")
    values: dict[str, Any] = {}
    for field in fields(kind):
        value = record.get(field.name)
        if value is None and field.name == "rating":
            value = record.get("intended_level")
        if value is None:
            if field.default is MISSING:
                raise ProbeError(f"{where}: the field `{field.name}` is missing; every row needs {_expected(kind)}.")
            continue
        values[field.name] = _value(value, field.name, field.type, where)
    return kind(**values)


def _value(value: Any, name: str, type_: Any, where: str) -> Any:
    if type_ is float:
        return _number(value, name, where)
    if name == "raters":
        if not isinstance(value, dict) or not value:
            raise ProbeError(f"{where}: expected `raters` to be rater: number, found {value!r}; name each rater.")
        return {rater: _number(rating, f"raters.{rater}", where) for rater, rating in value.items()}
    if name == "preferred" and value not in ("a", "b", "tie"):
        raise ProbeError(f"{where}: expected `preferred` to be a, b or tie, found {value!r}; correct it.")
    return _text(value, name, where)


def _text(value: Any, name: str, where: str) -> str:
    if isinstance(value, int) and not isinstance(value, bool) and name == "group":
        return str(value)
    if not isinstance(value, str) or not value.strip():
        raise ProbeError(
            f"{where}: expected `{name}` to be a non-empty text, found {value!r}; fill it in or drop the row."
        )
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ProbeError(
            f"{where}: `{name}` holds half of a surrogate pair, which no tokenizer reads; remove it."
        ) from error
    return value


def _number(value: Any, name: str, where: str) -> float:
    try:
        number = float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise ProbeError(f"{where}: expected `{name}` to be a finite number, found {str(value)[:60]!r}.")
    return number


def _expected(kind: type[Any]) -> str:
    return ", ".join(f"`{f.name}`" for f in fields(kind) if f.default is MISSING)
