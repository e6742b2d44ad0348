"""Texts to score, read one by one from files, folders and the standard input, each with the place where it stands."""

import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from probe.data.records import csv_records, json_records
from probe.data.texts import readable, stdin_lines
from probe.errors import ProbeError

JSON_LINES = (".jsonl", ".ndjson", ".json")


@dataclass(frozen=True)
class Given:
    """One row to score."""

    where: str
    record: dict[str, Any]
    """All that stands there, which is written beside the score."""
    text: str | None
    """None where an instruction alone is to be scored."""
    prompt: str


@dataclass(frozen=True)
class Texts:
    """Where texts come from; each pass reads them again, so that none is kept.

    Args:
        places: Files and folders.
        prompt: What a text answers, where its row does not say.
    """

    places: Sequence[Path]
    prompt: str
    stdin: Path | None = None
    """The place among them that holds what stood on the standard input."""

    def __iter__(self) -> Iterator[Given]:
        for place in self.places:
            for record, at in _records(place):
                yield self._given(record, at.replace(str(self.stdin), "standard input"))

    def _given(self, record: Any, at: str) -> Given:
        if isinstance(record, str):
            record = {"text": record}
        if not isinstance(record, dict):
            raise ProbeError(f"{at}: expected an object with `text`, found {str(record)[:60]!r}; correct it.")
        if taken := {"score", "percentile"} & record.keys():
            raise ProbeError(f"{at}: found the field `{min(taken)}`, which is to be written; rename it.")
        asked = record.get("prompt") or self.prompt
        name = next((name for name in ("text", "response", "prompt") if record.get(name)), None)
        if name is None:
            raise ProbeError(
                f"{at}: expected `text`, `response` or `prompt`, found {sorted(record)}; name the texts so."
            )
        for field, value in ((name, record[name]), ("prompt", asked)):
            if not isinstance(value, str) or not value.strip():
                raise ProbeError(f"{at}: expected `{field}` to be a non-empty text, found {value!r}; correct it.")
        readable(json.dumps(record, ensure_ascii=False), f"{at}: the row")
        return Given(at, record, None if name == "prompt" else record[name], asked)


def _records(place: Path) -> Iterator[tuple[Any, str]]:
    if place.is_dir():
        for path in sorted(path for path in place.iterdir() if path.is_file() and not path.name.startswith(".")):
            yield {"file": path.name, "text": _decoded(path.read_bytes(), str(path))}, str(path)
    elif not place.is_file():
        raise ProbeError(f"{place}: expected a file or a folder of texts, found none; correct the path.")
    elif place.suffix.lower() in JSON_LINES:
        yield from json_records(place)
    elif place.suffix.lower() == ".csv":
        yield from csv_records(place)
    elif place.suffix.lower() in (".txt", ""):
        with place.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                at = f"{place}:{number}"
                if text := _decoded(line, at).strip():
                    yield text, at
    else:
        raise ProbeError(
            f"{place}: expected .jsonl, .csv or .txt (a text a line), found another kind; rename or convert it."
        )


def _decoded(found: bytes, at: str) -> str:
    try:
        return found.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ProbeError(f"{at}: expected text in UTF-8, but {error}; save it as such.") from error


def from_stdin(folder: str) -> Path:
    """Keeps what stands on the standard input in a file, since it can be read only once: JSON lines, or a text a line."""
    with tempfile.NamedTemporaryFile("w", dir=folder, suffix=".jsonl", encoding="utf-8", delete=False) as file:
        are_json: bool | None = None
        for line in stdin_lines():
            if are_json is None:
                are_json = line.startswith("{") and _is_json(line)
            file.write(f"{line if are_json else json.dumps(line)}\n")
    return Path(file.name)


def _is_json(line: str) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True
