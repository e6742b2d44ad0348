"""Shown text is text: whatever data, models, cards and endpoints say, it steers no terminal, viewer or spreadsheet."""

import re
from collections.abc import Mapping
from typing import Any

_STEERS_TERMINALS = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)
"""Control characters but tab and line feed, what turns the reading direction (CVE-2021-42574), halves of surrogate pairs."""
_MARKS_UP = re.compile(r"[\\`*_|#~]|\[(?![-+.,\d ]+\](?![(\[:]))|<(?=[a-zA-Z/!?])|&(?=#?\w+;)|:(?=//)")
"""What begins code, emphasis, a cell, a heading, a link or an image (but not the interval [0.1, 0.2]), HTML, an entity, a URL."""
_RUN_BY_SPREADSHEETS = re.compile(r"'*[=+\-@\t\r\n＝＋－＠]")
"""Source: OWASP, "CSV Injection". Apostrophes before them count too, or else an apostrophe of the text's own would be undone."""


def plain(text: str) -> str:
    """For a terminal: what would steer it is shown as a replacement character."""
    return _STEERS_TERMINALS.sub("\N{REPLACEMENT CHARACTER}", text.replace("\r\n", "\n"))


def markdown(text: str) -> str:
    """For Markdown, also inside a table: it makes no image, link, HTML, heading or cell, and its lines stay lines."""
    return "<br>".join(_MARKS_UP.sub(lambda found: f"&#{ord(found[0])};", plain(line)) for line in text.splitlines())


def csv_cell(value: Any) -> Any:
    """For a spreadsheet: a text that it would run as a formula is marked as a text; numbers are left alone."""
    if not isinstance(value, str) or not _RUN_BY_SPREADSHEETS.match(value):
        return value
    return f"'{value}"


def from_csv_cell(cell: str) -> str:
    """The text that `csv_cell` marked."""
    return cell[1:] if cell.startswith("'") and _RUN_BY_SPREADSHEETS.match(cell[1:]) else cell


def csv_record(record: Mapping[str, Any]) -> dict[str, Any]:
    """A row of a table, all of whose cells are safe."""
    return {csv_cell(name): csv_cell(value) for name, value in record.items()}
