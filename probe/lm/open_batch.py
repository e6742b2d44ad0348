"""A batch that stays open: a line joins while others are being written, and leaves when it is done or nobody waits for it."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList

from probe.lm.caches import joined, selectable, selected
from probe.lm.frozen import FrozenLM
from probe.lm.hooks import contiguous
from probe.lm.sampling import KeyedNoise, continued, padded
from probe.lm.spec import Tokens
from probe.lm.tokens import plan_batches
from probe.lm.writing import LEAVE, ends_of


@dataclass(eq=False)
class Line:
    """One text that is being written.

    Args:
        prompt: Token ids before it.
        limit: Length limit.
        noise: Of its own sampling; None is greedy.
        how: What steers it, as whoever steers knows it.
        tell: Is told of the line after each new token, from the thread that writes.
    """

    prompt: Sequence[int]
    limit: int
    noise: KeyedNoise | None = None
    how: Any = None
    tell: Callable[["Line"], None] = lambda _: None
    new: list[int] = field(default_factory=list)
    """Tokens so far, with the one that ended it."""
    end: Literal["stop", "length"] | None = None
    gone: bool = False
    """Whoever wanted it may set this, from any thread, and it leaves the batch."""
    failure: Exception | None = None
    """Why it will never be whole."""

    @property
    def over(self) -> bool:
        """Whether nothing more is written."""
        return self.gone or self.end is not None or self.failure is not None

    def take(self, token: int, ends: Sequence[int]) -> None:
        """Takes its next token."""
        self.new.append(token)
        self.end = "stop" if token in ends else "length" if len(self.new) >= self.limit else None
        self.tell(self)


Within = Callable[[Sequence[Line], Tokens], AbstractContextManager[None]]
"""Steering of some lines, in passes over their prompts, over what is generated, or over all of both."""


class OpenBatch:
    """Lines that are written together, each what it would be alone.

    Where rows cannot be taken from the model's cache, or depend on the padding, a line is written alone.

    Args:
        lm: The model.
        rows: The most lines at once.
        within: Steering.
    """

    def __init__(self, lm: FrozenLM, rows: int, within: Within) -> None:
        self.lm, self.within = lm, within
        self.together = lm.writes_in_batches and selectable(lm.model)
        self.rows = rows if self.together else 1
        self.lines: list[Line] = []
        self._ends = ends_of(lm.model)
        self._ids = self._mask = torch.empty(0, 0, dtype=torch.long)
        self._cache: dict[str, Any] = {}

    @property
    def room(self) -> int:
        """How many lines may join."""
        return self.rows - sum(not line.over for line in self.lines)

    @torch.inference_mode()
    def join(self, lines: Sequence[Line], ends: Callable[[], bool] = lambda: False) -> None:
        """Reads the prompts of lines, and writes the first token of each.

        A line that is written alone is written whole, unless all is to end.
        """
        for rows in plan_batches([len(line.prompt) for line in lines], self.lm.batch_tokens):
            some = [lines[i] for i in rows]
            part: Tokens = "prompt" if self.together else "all"
            most = 1 if self.together else some[0].limit
            ids, mask = padded([line.prompt for line in some], self.lm.encoder.pad_id, self.lm.device)
            self._put(some, *self._continue(some, ids, mask, {}, part, most, ends))

    @torch.inference_mode()
    def write_on(self, waits: Callable[[], bool]) -> None:
        """Writes a token of every line a step, until enough lines are over to go on without them, or somebody waits."""
        lines, most = self.lines, max((line.limit - len(line.new) for line in self.lines if not line.over), default=0)
        if most:
            out, mask = self._continue(lines, self._ids, self._mask, self._cache, "generated", most, waits)
        self.clear()
        if most:
            self._put(lines, out, mask)

    def clear(self) -> None:
        """Drops every line."""
        self.lines, self._cache = [], {}

    def _continue(
        self, lines: list[Line], ids: Tensor, mask: Tensor, cache: dict[str, Any],
        part: Tokens, most: int, waits: Callable[[], bool],
    ) -> tuple[Any, Tensor]:  # fmt: skip
        """What `generate` returned, and the mask of all that was read and written."""
        head: Any = self.lm.model.get_output_embeddings
        with self.within(lines, part), contiguous(head()):
            out = continued(
                self.lm.model, ids, mask, most,
                logits_processor=LogitsProcessorList([_Noises(lines)]),
                stopping_criteria=StoppingCriteriaList([Step(lines, self._ends, waits)]),
                **cache,
            )  # fmt: skip
        fresh = out.sequences[:, ids.shape[1] :]
        return out, torch.cat([mask, torch.ones_like(fresh)], 1)

    def _put(self, lines: Sequence[Line], out: Any, mask: Tensor) -> None:
        """Keeps the lines that are not over, beside those that are here."""
        stay = [i for i, line in enumerate(lines) if not line.over]
        if not stay or not self.together:
            return
        ids, mask, cache = out.sequences[stay], mask[stay], selected(out, stay)
        width = max(int(mask.sum(1).max()), self._mask.shape[1] if self.lines else 0)
        ids, mask = (_to_width(x, width) for x in (ids, mask))
        if self.lines:
            ids = torch.cat([_to_width(self._ids, width), ids])
            mask = torch.cat([_to_width(self._mask, width), mask])
            self._cache = joined(self._cache, cache, width - 1)
        else:
            self._cache = joined(cache, {}, width - 1)
        self.lines, self._ids, self._mask = [*self.lines, *(lines[i] for i in stay)], ids, mask


def _to_width(x: Tensor, width: int) -> Tensor:
    """The last columns `[B, width]`; zeros, which the mask hides, where there are fewer."""
    return torch.nn.functional.pad(x, (width - x.shape[1], 0))


class _Noises(LogitsProcessor):
    """Draws the next token of each line from its own noise."""

    def __init__(self, lines: Sequence[Line]) -> None:
        self.lines = lines

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scores `[B, V]` of which the largest is drawn."""
        rows = zip(self.lines, torch.split(scores, 1), strict=True)
        return torch.cat([line.noise(input_ids, row) if line.noise and not line.over else row for line, row in rows])


class Step(StoppingCriteria):
    """Gives each line its token after each step, and interrupts where enough lines are over or somebody waits."""

    def __init__(self, lines: Sequence[Line], ends: Sequence[int], waits: Callable[[], bool]) -> None:
        self.lines, self.ends, self.waits, self.stopped = lines, ends, waits, False

    def __call__(self, input_ids: Tensor, _scores: Any, **_: Any) -> Any:
        """Whether each row stops `[B]`."""
        if not self.stopped:  # some devices take a step too many, and undo it
            for line, token in zip(self.lines, input_ids[:, -1].tolist(), strict=True):
                if not line.over:
                    line.take(token, self.ends)
            over = sum(line.over for line in self.lines)
            self.stopped = LEAVE * over >= len(self.lines) or self.waits()
        return torch.full((len(input_ids),), self.stopped, device=input_ids.device)
