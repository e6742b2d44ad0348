"""Rows: what a person brings, read from JSONL or CSV and checked line by line before anything expensive starts."""

import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin

from probe.data.records import csv_records, json_records
from probe.data.texts import normal, readable
from probe.errors import ProbeError
from probe.files import SHIPPED, shipped

DEFAULT_PROMPT = "Write a story."
"""What a text answers, where nobody says."""


@dataclass(frozen=True)
class TextPair:
    """Two contrastive instructions, and optionally the text each one led to; files may call the sides `more` and `less`."""

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
    prompt: str = DEFAULT_PROMPT
    raters: Mapping[str, float] | None = None
    """Each rater's own rating, where several people rated; in CSV one column `rater_NAME` each, empty if they did not."""
    split: Literal["train", "val", "validation", "test"] | None = None
    """Which split it belongs to, where the file says so; only `RatedData` asks."""
    source: str | None = None
    """Who wrote it; agreement is then told within each, too."""


@dataclass(frozen=True)
class Preference:
    """Two texts, and which of them people found more creative."""

    text_a: str
    text_b: str
    preferred: Literal["a", "b", "tie"]
    group: str
    prompt: str = DEFAULT_PROMPT
    source_a: str | None = None
    """Who wrote each."""
    source_b: str | None = None


@dataclass(frozen=True)
class CrossedText:
    """One of four texts on a topic: an inventive or an ordinary idea, told in an ornate or a plain style."""

    text: str
    idea: Literal["ordinary", "inventive"]
    style: Literal["plain", "ornate"]
    group: str
    prompt: str = DEFAULT_PROMPT


@dataclass(frozen=True)
class StoryPrompt:
    """A creative instruction whose uncreative counterpart is still to be written."""

    creative: str
    group: str


RowT = TypeVar("RowT", TextPair, RatedText, Preference, CrossedText, StoryPrompt)
OTHER_NAMES = {
    "creative": "more",
    "uncreative": "less",
    "response_creative": "response_more",
    "response_uncreative": "response_less",
    "rating": "intended_level",
}
"""What else a file may call a field, whatever the concept; where nobody judged, the level that a writer meant is the rating."""


def read_rows(path: str | Path, kind: type[RowT]) -> list[RowT]:
    """Reads one row type from a JSONL file, or from a CSV file with a header; further fields are ignored.

    Names of groups and raters that differ in nothing that is seen are one: see `normal`.

    Raises:
        ProbeError: naming file and line, for anything that is not a complete, non-empty row.
    """
    rewritten: list[str] = []
    rows = [_row(record, kind, place, rewritten) for record, place in records_of(Path(path))]
    if rewritten:
        _say_once(
            f"{path}: spaces and Unicode form are no part of a name: {len(rewritten)} names of groups or raters were "
            f"normalised (first: {rewritten[0]!r} to {normal(rewritten[0])!r})."
        )
    if not rows:
        raise ProbeError(f"{path}: expected rows with {_expected(kind)}, found an empty file; give one with rows.")
    return rows


def records_of(path: Path) -> Iterator[tuple[Any, str]]:
    """The records of a file, each with its place, by the ending of its name.

    Raises:
        ProbeError: where there is no such file.
    """
    file = shipped(path)
    if not file.is_file():
        raise ProbeError(f"{path}: no such file, here or in {SHIPPED}; check the `data` section of the config.")
    return FORMATS.get(path.suffix.lower(), json_records)(file)


def read_crossed(path: str | Path) -> list[CrossedText]:
    """Reads a set in which idea and style are crossed.

    Raises:
        ProbeError: as `read_rows`; also where a topic is not told once in each idea and style.
    """
    texts = read_rows(path, CrossedText)
    told: dict[str, list[str]] = {}
    for text in texts:
        told.setdefault(text.group, []).append(f"{text.idea} {text.style}")
    for group, cells in told.items():
        if len(cells) != 4 or len(set(cells)) != 4:
            raise ProbeError(
                f"{path}: expected every topic once in each idea and style, found {group} as {', '.join(sorted(cells))}; "
                "add what is missing or leave the topic out."
            )
    return texts


def read_judged(path: str | Path) -> list[RatedText] | list[Preference]:
    """Reads what people judged: rated texts, or comparisons where the first row holds two texts.

    Raises:
        ProbeError: as `read_rows`.
    """
    return read_rows(path, Preference) if "text_a" in first_of(path) else read_rows(path, RatedText)


def first_of(path: str | Path) -> Mapping[str, Any]:
    """The first record of a file, whose fields tell its kind; empty where it holds no record."""
    first = next((record for record, _ in records_of(Path(path))), None)
    return first if isinstance(first, dict) else {}


@cache
def _say_once(message: str) -> None:
    warnings.warn(message, stacklevel=3)


def _csv_records(path: Path) -> Iterator[tuple[Any, str]]:
    for record, place in csv_records(path):
        filled = {name: value for name, value in record.items() if value}
        raters = {name[6:]: _cell(value) for name, value in filled.items() if name.startswith("rater_")}
        rating = {name: _cell(filled[name]) for name in ("rating", "intended_level") if name in filled}
        yield filled | rating | ({"raters": raters} if raters else {}), place


FORMATS: dict[str, Callable[[Path], Iterator[tuple[Any, str]]]] = {".csv": _csv_records}
"""Ending of a file's name -> its records, each with its place; JSON lines where none is said."""


def _cell(value: str) -> float | str:
    try:
        return float(value)
    except ValueError:
        return value


def _row(record: Any, kind: type[RowT], place: str, rewritten: list[str]) -> RowT:
    """Builds a row; names that were normalised are added to `rewritten` as they stood."""
    if not isinstance(record, dict):
        raise ProbeError(f"{place}: expected a JSON object with {_expected(kind)}, found {type(record).__name__}.")
    values: dict[str, Any] = {}
    for field in fields(kind):
        value = record.get(field.name, record.get(OTHER_NAMES.get(field.name, "")))
        if value is None:
            if field.default is MISSING:
                raise ProbeError(f"{place}: the field `{field.name}` is missing; every row needs {_expected(kind)}.")
            continue
        values[field.name] = _value(value, field.name, field.type, place)
        if field.name in ("group", "raters"):
            values[field.name], as_written = _named(values[field.name], place)
            rewritten += as_written
    return kind(**values)


def _named(value: str | dict[str, float], place: str) -> tuple[str | dict[str, float], list[str]]:
    """A group, or ratings by rater, under normal names; and the names that were not normal."""
    if isinstance(value, str):
        return _text(normal(value), "group", place), [value] * (value != normal(value))
    for name in value:
        readable(name, f"{place}: the name of a rater")
    renamed = {normal(name): rating for name, rating in value.items()}
    if len(renamed) < len(value):
        raise ProbeError(
            f"{place}: expected one rating of each rater, found a rater twice in {list(value)}; correct it."
        )
    return renamed, [name for name in value if name != normal(name)]


def _value(value: Any, name: str, type_: Any, place: str) -> Any:
    if type_ is float:
        return _number(value, name, place)
    if name == "raters":
        if not isinstance(value, dict) or not value:
            raise ProbeError(f"{place}: expected `raters` to be rater: number, found {value!r}; name each rater.")
        return {rater: _number(rating, f"raters.{rater}", place) for rater, rating in value.items()}
    if (names := _choices(type_)) and value not in names:
        known = f"{', '.join(names[:-1])} or {names[-1]}"
        raise ProbeError(f"{place}: expected `{name}` to be {known}, found {value!r}; correct it.")
    return _text(value, name, place)


def _choices(type_: Any) -> tuple[str, ...]:
    """The values that a field may hold, where it is a choice; or it may be left out."""
    kinds = [kind for kind in (type_, *get_args(type_)) if get_origin(kind) is Literal]
    return get_args(kinds[0]) if kinds else ()


def _text(value: Any, name: str, place: str) -> str:
    if isinstance(value, int) and not isinstance(value, bool) and name == "group":
        return str(value)
    if not isinstance(value, str) or not value.strip():
        raise ProbeError(
            f"{place}: expected `{name}` to be a non-empty text, found {value!r}; fill it in or drop the row."
        )
    return readable(value, f"{place}: `{name}`")


def _number(value: Any, name: str, place: str) -> float:
    try:
        number = float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise ProbeError(f"{place}: expected `{name}` to be a finite number, found {str(value)[:60]!r}.")
    return number


def _expected(kind: type[Any]) -> str:
    return ", ".join(f"`{f.name}`" for f in fields(kind) if f.default is MISSING)
