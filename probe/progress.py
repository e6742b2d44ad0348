"""Signs of life: how far long work is and how long it has to go, as a bar on a terminal and as lines in a log."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from probe.shown.escapes import plain
from probe.shown.terminal import Terminal

T = TypeVar("T")
Advance = Callable[[int], None]


def silent(_: int) -> None:
    """Says nothing."""


FIRST, EVERY = 2.0, 15.0
"""Seconds before the first line of a log, and between lines."""


@contextmanager
def working(
    doing: str, total: int, unit: str = "", shown: bool = True, clock: Callable[[], float] = time.monotonic
) -> Iterator[Advance]:
    """Says on the standard error how far work is: `reading 312 of 1,240 texts, 4 min left`; the caller advances it.

    Args:
        doing: What is done, as in `reading`.
        total: How much there is to do.
        unit: What is counted, as in `texts`.
        shown: Whether to say anything at all.
        clock: Seconds from some start.
    """
    if not shown or not total:
        yield silent
    elif sys.stderr.isatty():
        with _bar(doing, total, unit) as advance:
            yield advance
    else:
        yield _lines(doing, total, unit, clock)


@contextmanager
def waiting(text: str) -> Iterator[None]:
    """Says what is waited for where nobody can say how far it is: a moving sign on a terminal, one line elsewhere."""
    from rich.console import Console
    from rich.text import Text

    console = Console(stderr=True)
    if console.is_terminal:
        with console.status(Text(plain(text))):
            yield
    else:
        print(plain(text), file=sys.stderr, flush=True)
        yield


def track(
    items: Iterable[T],
    doing: str,
    total: int,
    unit: str = "",
    size: Callable[[T], int] = lambda _: 1,
    shown: bool = True,
) -> Iterator[T]:
    """Yields the items and says how far they are, each by its size."""
    with working(doing, total, unit, shown) as advance:
        for item in items:
            yield item
            advance(size(item))


@contextmanager
def _bar(doing: str, total: int, unit: str) -> Iterator[Advance]:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn(doing), BarColumn(), MofNCompleteColumn(), TextColumn(unit), TimeRemainingColumn())
    with Progress(*columns, console=Terminal(file=sys.stderr), transient=True) as progress:
        task = progress.add_task(doing, total=total)
        yield lambda n: progress.advance(task, n)


def _lines(doing: str, total: int, unit: str, clock: Callable[[], float]) -> Advance:
    start, done = clock(), 0
    due = start + FIRST

    def advance(n: int) -> None:
        nonlocal done, due
        done, now = done + n, clock()
        if now >= due and 0 < done < total:
            left = duration((now - start) * (total - done) / done)
            print(f"{doing} {done:,} of {total:,} {unit}".rstrip() + f", {left} left", file=sys.stderr, flush=True)
            due = now + EVERY

    return advance


def duration(seconds: float) -> str:
    """Seconds as a person says them: `40 s`, `4 min`, `2 h 10 min`."""
    if seconds < 90:
        return f"{max(seconds, 1):.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds // 3600:.0f} h {seconds % 3600 / 60:.0f} min"
