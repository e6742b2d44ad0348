"""A reply as it comes: from the thread that writes to whoever waits for it in the event loop."""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator
from typing import Any

from probe.lm.open_batch import Line
from probe.verbs.serve.engine import Engine
from probe.verbs.serve.service import Prepared

CHAT, COMPLETION = "chat.completion", "text_completion"


class Reply:
    """One text under way; it is handed in when it is made.

    Args:
        prepared: What is to be written.
        engine: Who writes.
        kind: Of reply: chat.completion or text_completion.
        model: The name that it is told under.
    """

    def __init__(self, prepared: Prepared, engine: Engine, kind: str, model: str) -> None:
        self.line, self.text, self.told = prepared.line, prepared.text, prepared.told
        self.kind, self.model = kind, model
        self.id, self.created = f"{'chatcmpl' if kind == CHAT else 'cmpl'}-{uuid.uuid4().hex}", int(time.time())
        self._loop, self._events = asyncio.get_running_loop(), asyncio.Queue[tuple[int, bool] | Exception]()
        self.line.tell = self._hear
        engine.write(self.line)

    def _hear(self, line: Line) -> None:
        """Passes on what the line tells, from the other thread."""
        if not self._loop.is_closed():
            event = line.failure or (line.new[-1], line.end is not None)
            self._loop.call_soon_threadsafe(self._events.put_nowait, event)

    def leave(self) -> None:
        """Frees its place."""
        self.line.gone = True

    async def pieces(self) -> AsyncIterator[str]:
        """The text, piece by piece.

        Raises:
            Exception: why it will never be whole.
        """
        ended = False
        while not ended:
            event = await self._events.get()
            if isinstance(event, Exception):
                raise event
            token, ended = event
            if piece := self.text.add(token):
                yield piece
            if self.text.stopped:
                return
        if piece := self.text.rest():
            yield piece

    @property
    def finish_reason(self) -> str | None:
        """Why it ended: of itself or at a stop, or at the length limit."""
        return "stop" if self.text.stopped else self.line.end

    @property
    def usage(self) -> dict[str, int]:
        """Tokens that were read, and that were written up to here, the one that ended it among them."""
        n_prompt, n_new = len(self.line.prompt), len(self.text.ids)
        return {"prompt_tokens": n_prompt, "completion_tokens": n_new, "total_tokens": n_prompt + n_new}

    def whole(self) -> dict[str, Any]:
        """The reply, once it is whole, as OpenAI has it."""
        said = self.text.told
        content = {"message": {"role": "assistant", "content": said}} if self.kind == CHAT else {"text": said}
        choice = {"index": 0, **content, "logprobs": None, "finish_reason": self.finish_reason}
        return self._envelope(self.kind) | {"choices": [choice], "usage": self.usage, "steering": self.told}

    def chunk(self, piece: str | None, ended: bool = False) -> dict[str, Any]:
        """A piece of the reply as OpenAI streams it; None begins it."""
        if self.kind == CHAT:
            delta = {"role": "assistant", "content": ""} if piece is None else {"content": piece} if piece else {}
            content: dict[str, Any] = {"delta": delta}
        else:
            content = {"text": piece or ""}
        choice = {"index": 0, **content, "logprobs": None, "finish_reason": self.finish_reason if ended else None}
        begins = {"steering": self.told} if piece is None else {}
        return self._envelope(self._of_chunk) | {"choices": [choice]} | begins

    def usage_chunk(self) -> dict[str, Any]:
        """The number of tokens, as OpenAI ends a stream with it."""
        return self._envelope(self._of_chunk) | {"choices": [], "usage": self.usage}

    @property
    def _of_chunk(self) -> str:
        return "chat.completion.chunk" if self.kind == CHAT else self.kind

    def _envelope(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}
