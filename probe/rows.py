"""Rows: what a person brings, read from JSONL and checked line by line before anything expensive starts."""

import json
import math
from collections.abc import Iterator
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any, Literal, TypeVar

from probe.errors import ProbeError

Span = Literal["prompt", "response"]
"""Where activations are read: over the instruction, or over the text written in answer to it."""


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
    group: str
    prompt: str = "Write a story."


@dataclass(frozen=True)
class Passage:
    """What the LM reads; the pooled span is the response where there is one, else the prompt."""

    prompt: str
    response: str | None = None

    @property
    def pooled(self) -> str:
        """The text of the pooled span."""
        return self.prompt if self.response is None else self.response


RowT = TypeVar("RowT", TextPair, RatedText)


def read_rows(path: str | Path, kind: type[RowT]) -> list[RowT]:
    """Reads one row type from a JSONL file; further fields are ignored.

    Raises:
        ProbeError: naming file and line, for anything that is not a complete, non-empty row.
    """
    rows = [_row(record, kind, where) for record, where in _records(Path(path))]
    if not rows:
        raise ProbeError(
            f"{path}: expected JSONL rows with {_expected(kind)}, found an empty file; give one with rows."
        )
    return rows


def _records(path: Path) -> Iterator[tuple[Any, str]]:
    if not path.is_file():
        raise ProbeError(f"{path}: no such file; check the path in the `data` section of the config.")
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        where = f"{path}:{number}"
        try:
            yield json.loads(line), where
        except (ValueError, RecursionError) as error:  # JSONDecodeError and UnicodeDecodeError are ValueErrors
            raise ProbeError(f"{where}: expected one JSON object a line, found {line[:60]!r} ({error}).") from error


def _row(record: Any, kind: type[RowT], where: str) -> RowT:
    if not isinstance(record, dict):
        raise ProbeError(f"{where}: expected a JSON object with {_expected(kind)}, found {type(record).__name__}.")
    values: dict[str, Any] = {}
    for field in fields(kind):
        value = record.get(field.name)
        if value is None:
            if field.default is MISSING:
                raise ProbeError(f"{where}: the field `{field.name}` is missing; every row needs {_expected(kind)}.")
            continue
        values[field.name] = (
            _number(value, field.name, where) if field.type is float else _text(value, field.name, where)
        )
    return kind(**values)


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
