"""The thread that owns the model: whoever wants a text or a figure of it leaves word at its door, and is told from there."""

import sys
import threading
import traceback
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from probe.errors import ProbeError
from probe.lm.open_batch import Line, OpenBatch
from probe.verbs.serve.refusals import Refusal

T = TypeVar("T")


class Engine:
    """Writes the lines that are handed in, as many at once as the batch holds, and does other work between two steps.

    Args:
        batch: What is written together.
        most_waiting: Lines, and pieces of other work, beyond which nobody is let in.
    """

    def __init__(self, batch: OpenBatch, most_waiting: int) -> None:
        self.batch, self.most_waiting = batch, most_waiting
        self._door = threading.Condition()
        self._lines, self._work = deque[Line](), deque[tuple[Future[Any], Callable[[], Any]]]()
        self._closed: Refusal | None = None
        self._thread = threading.Thread(target=self._run, name="model", daemon=True)
        self._thread.start()

    def write(self, line: Line) -> None:
        """Hands in a line.

        Raises:
            Refusal: where too many wait, or where the server is about to end.
        """
        with self._door:
            self._lines = deque(one for one in self._lines if not one.gone)
            self._let_in(len(self._lines))
            self._lines.append(line)
            self._door.notify()

    def do(self, work: Callable[[], T]) -> "Future[T]":
        """Has something done by the thread that owns the model.

        Raises:
            Refusal: as `write`.
        """
        done: Future[T] = Future()
        with self._door:
            self._let_in(len(self._work))
            self._work.append((done, work))
            self._door.notify()
        return done

    def _let_in(self, n_waiting: int) -> None:
        if self._closed:
            raise self._closed
        if n_waiting >= self.most_waiting:
            raise Refusal(
                429,
                f"expected fewer than {self.most_waiting} requests to wait, found {n_waiting}; try again in a moment, or start "
                "the server with a larger --max_waiting.",
                "queue_full",
            )

    def stop(self) -> None:
        """Lets nobody in any more, and tells those who wait."""
        with self._door:
            self._closed = Refusal(
                503, "expected a server that goes on, found one that is about to end; ask later.", "closing"
            )
            self._door.notify()

    def join(self, seconds: float) -> bool:
        """Whether the thread has ended, at most so many seconds from now."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _knocked(self) -> bool:
        """Whether the batch should be interrupted."""
        return bool(self._closed or self._work or (self._lines and self.batch.room))

    def _run(self) -> None:
        underway: list[Line] = []
        while True:
            with self._door:
                self._door.wait_for(lambda: self._lines or self._work or self.batch.lines or self._closed)
                work = [self._work.popleft() for _ in range(len(self._work))]
                lines: list[Line] = []
                while self._lines and len(lines) < self.batch.room:
                    line = self._lines.popleft()
                    lines += [] if line.gone else [line]
            if self._closed:
                return self._end([*underway, *lines, *self._lines], work, self._closed)
            for done, piece in work:
                _do(done, piece)
            underway = [*self.batch.lines, *lines]
            try:
                self.batch.join(lines, lambda: self._closed is not None)
                self.batch.write_on(self._knocked)
            except Exception as error:  # whatever it was, those who wait are told, and the others are served
                traceback.print_exc(file=sys.stderr)
                self.batch.clear()
                _fail(underway, Refusal.of(error))

    def _end(self, lines: list[Line], work: list[tuple[Future[Any], Any]], why: Refusal) -> None:
        self.batch.clear()
        _fail(lines, why)
        for done, _ in work:
            if done.set_running_or_notify_cancel():
                done.set_exception(why)


def _do(done: Future[Any], piece: Callable[[], Any]) -> None:
    if done.set_running_or_notify_cancel():
        try:
            done.set_result(piece())
        except Exception as error:
            if not isinstance(error, ProbeError | Refusal):
                traceback.print_exc(file=sys.stderr)
            done.set_exception(error)


def _fail(lines: list[Line], why: Refusal) -> None:
    for line in lines:
        if not line.over:
            line.failure = why
            line.tell(line)
