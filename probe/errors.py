"""The one exception a user meets, and one line about those that nobody foresaw."""

import difflib
import platform
import shlex
import tempfile
import traceback
from collections.abc import Iterable, Sequence


class ProbeError(ValueError):
    """Says in one sentence what was expected, what was found and what to do."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`; did you mean X?` to end a sentence with, or nothing where no known word is like this one."""
    close = difflib.get_close_matches(word, list(known), 1)
    return f"; did you mean {close[0]}?" if close else ""


def last_resort(error: Exception, argv: Sequence[str]) -> str:
    """One line about an exception that nobody foresaw; its traceback goes into a file of the temporary folder."""
    whole = "".join(traceback.format_exception(error))
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix="probe-", suffix=".txt", encoding="utf-8", errors="backslashreplace", delete=False
        ) as file:
            file.write(f"probe {shlex.join(argv)}\n{platform.platform()}, Python {platform.python_version()}\n{whole}")
    except OSError:
        return f"{whole}error: this is a fault of probe, and there is no room for its traceback; please report it as above."
    said = " ".join(str(error).split())[:200]
    return (
        f"error: {type(error).__name__} ({said}) is a fault of probe, not yours; please report it with {file.name}, which holds "
        "the command and the whole traceback."
    )
