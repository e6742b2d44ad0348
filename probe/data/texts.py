"""Texts and names as they come in: what no tokenizer reads is refused, and one name is written in one way."""

import io
import re
import sys
import unicodedata
from collections.abc import Iterator

from probe.errors import ProbeError

_NO_WIDTH = re.compile("[\u00ad\u200b\u2060\ufeff]")
"""Soft hyphen, zero-width space, word joiner, byte order mark: copied along from web pages, and never seen."""


def normal(name: str) -> str:
    """A name in Unicode's composed form (NFC), with single spaces inside and none around, and nothing that has no width.

    A topic that is written in two ways could stand on both sides of a split.
    """
    return " ".join(unicodedata.normalize("NFC", _NO_WIDTH.sub("", name)).split())


def readable(text: str, what: str) -> str:
    """A text that a tokenizer can read.

    Raises:
        ProbeError: for half of a surrogate pair, which is also what bytes that are no UTF-8 are read as.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ProbeError(
            f"{what} holds half of a surrogate pair or bytes that are no UTF-8, which no tokenizer reads; remove them."
        ) from error
    return text


def stdin_lines() -> Iterator[str]:
    """Lines of the standard input that say something, without the space around them.

    Raises:
        ProbeError: naming the first line that is no text.
    """
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="surrogateescape")  # or else no one could say which line it was
    for number, line in enumerate(sys.stdin or (), start=1):
        text = readable(line, f"standard input, line {number}").removeprefix("\ufeff").strip()
        if "\0" in text:
            raise ProbeError(f"standard input, line {number}: expected text in UTF-8, found a NUL; save it as such.")
        if text:
            yield text


def words_of(text: str) -> list[str]:
    """Lower-case words of a text as a reader counts them, in any alphabet: *don't* is one, and a number is none."""
    return re.findall(r"[^\W\d_]+(?:['’][^\W\d_]+)*", unicodedata.normalize("NFC", text).lower())
