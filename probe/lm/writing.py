"""Texts written together: a prompt that rows share is read once, and what is finished leaves the batch."""

from collections.abc import Callable, Hashable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessorList, PreTrainedModel, StoppingCriteria, StoppingCriteriaList

from probe.lm.caches import selectable, selected
from probe.lm.hooks import contiguous
from probe.lm.sampling import Draw, Follower, KeyedNoise, continued, padded

Within = Callable[[Sequence[int], bool], AbstractContextManager[None]]
"""Steering of some of the rows, and whether their prompts are behind them."""
LEAVE = 4
"""Rows leave when one in so many is finished: selecting from the cache copies it."""


@dataclass
class NewTokens:
    """What was added to one row, up to the token that ends it."""

    ids: list[int] = field(default_factory=list)
    surprise: list[float] = field(default_factory=list)
    """-log p of each token under the model as it wrote, at temperature 1."""
    ended: bool = False


def write(
    model: PreTrainedModel,
    rows: Sequence[Sequence[int]],
    pad_id: int,
    max_new_tokens: int,
    noise: KeyedNoise | None,
    tell: Callable[[list[list[int]]], None] | None = None,
    within: Within | None = None,
    alike: Sequence[Hashable] | None = None,
) -> list[NewTokens]:
    """Continues rows of token ids.

    Args:
        model: The language model.
        rows: Token ids of the prompts.
        pad_id: The token that pads.
        max_new_tokens: Length limit.
        noise: Of the sampling; None is greedy.
        tell: Is told the new tokens of all rows after each step.
        within: Steering.
        alike: What is done to each row's prompt; equal prompts to which the same is done are read once.
    """
    new = [NewTokens() for _ in rows]
    ids, mask = padded(rows, pad_id, model.device)
    ends = torch.tensor(ends_of(model), device=model.device)
    leaves = selectable(model)
    live, cache = list(range(len(rows))), dict[str, Any]()
    head: Any = model.get_output_embeddings
    steered = within or (lambda _rows, _behind: nullcontext())
    keys = [(tuple(row), key) for row, key in zip(rows, alike or range(len(rows)), strict=True)]
    first = {key: row for row, key in reversed(list(enumerate(keys)))}
    if leaves and len(first) < len(rows) and ids.shape[1] > 1:
        some = sorted(first.values())
        with steered(some, False):
            read = continued(model, ids[some, :-1], mask[some, :-1], 1)
        cache = selected(read, [some.index(first[key]) for key in keys])
    done = 0
    while True:
        draw = Draw(noise.of(live) if noise else None)
        with steered(live, done > 0), contiguous(head()):
            out = continued(
                model, ids, mask, max_new_tokens - done,
                logits_processor=LogitsProcessorList([draw]),
                stopping_criteria=StoppingCriteriaList([_Leaving(ends)] if leaves else []),
                streamer=Follower([n.ids for n in new], live, tell) if tell else None,
                **cache,
            )  # fmt: skip
        fresh = out.sequences[:, ids.shape[1] :]
        surprise = torch.stack(draw.surprise[: fresh.shape[1]], 1)
        over = torch.isin(fresh, ends)
        for row, tokens, cost, at in zip(live, fresh.tolist(), surprise.tolist(), over.tolist(), strict=True):
            n = at.index(True) + 1 if any(at) else len(at)
            new[row].ids += tokens[:n]
            new[row].surprise += cost[:n]
            new[row].ended = any(at)
        done += fresh.shape[1]
        stay = [j for j, row in enumerate(live) if not new[row].ended]
        if done >= max_new_tokens or not stay:
            return new
        live, cache = [live[j] for j in stay], selected(out, stay)
        ids, mask = out.sequences[stay], torch.cat([mask[stay], torch.ones_like(fresh[stay])], 1)


def ends_of(model: PreTrainedModel) -> list[int]:
    """The tokens that end a text."""
    config: Any = model.generation_config
    ends = config.eos_token_id
    return [] if ends is None else [*ends] if isinstance(ends, list) else [ends]


class _Leaving(StoppingCriteria):
    """Interrupts when enough rows are finished for the others to go on alone."""

    def __init__(self, ends: Tensor) -> None:
        self.ends, self.finished = ends, torch.zeros((), dtype=torch.bool, device=ends.device)

    def __call__(self, input_ids: Tensor, _scores: Any, **_: Any) -> Any:
        """Whether each row stops `[B]`."""
        self.finished = self.finished | torch.isin(input_ids[:, -1], self.ends)
        return (LEAVE * self.finished.sum() >= len(input_ids)).expand(len(input_ids))
