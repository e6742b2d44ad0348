"""Steered generation: all arms of an experiment are written in shared batches, with common random numbers."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import groupby

import torch
from torch import Tensor, nn

from probe.lm.frozen import FrozenLM
from probe.lm.hooks import edit
from probe.lm.operators import operator_called
from probe.lm.spec import Tokens
from probe.lm.writer import Written
from probe.lm.writing import Within
from probe.progress import working
from probe.steering.settings import Sampling


@dataclass(frozen=True)
class Arm:
    """One way to write; where nothing is said, the unsteered model, asked with the prompt itself."""

    name: str
    vectors: Mapping[int, Tensor] = field(default_factory=dict)
    """Layer -> lambda * a `[D]`, absolute: what the operator is given."""
    strength: float = 0.0
    """As the person said it, in their unit."""
    operator: str = "plus"
    """What is done with the vectors, by name."""
    adapter: float = 0.0
    """How much of the LM's adapter is used."""
    asks: Mapping[str, str] = field(default_factory=dict)
    """Prompt -> what the model is asked in its place; all else, what is measured too, goes by the prompt."""
    temperature: float | None = None
    """In place of the sampling's own."""

    @property
    def changes_the_model(self) -> bool:
        """Whether the model itself is another one than the clean one."""
        return bool(self.vectors or self.adapter)

    def question(self, prompt: str) -> str:
        """What the model is asked."""
        return self.asks.get(prompt, prompt)


Asked = Sequence[tuple[str, Arm]]
"""A prompt and an arm for each text."""


def write(lm: FrozenLM, asked: Asked, how: Sampling, progress: bool = False) -> list[str]:
    """Writes a text for each prompt and arm."""
    return [one.text for one in written(lm, asked, how, progress)]


def written(lm: FrozenLM, asked: Asked, how: Sampling, progress: bool = False) -> list[Written]:
    """Writes a text for each prompt and arm, and says how surprised its writer was.

    Rows of one batch may be steered differently, each by its own delta `[B, D]` after each block.
    """

    def shared(i: int) -> tuple[float, float]:
        """What all rows of a batch have to share."""
        arm = asked[i][1]
        return arm.adapter, how.temperature if arm.temperature is None else arm.temperature

    questions = [arm.question(prompt) for prompt, arm in asked]
    # Questions of like length side by side: less padding, fewer steps; equal ones, for those are read once.
    order = sorted(range(len(asked)), key=lambda i: (shared(i), len(questions[i]), questions[i]))
    alike = [(key, list(rows)) for key, rows in groupby(order, shared)]
    n = how.rows if lm.writes_in_batches else 1
    batches = [(key, rows[i : i + n]) for key, rows in alike for i in range(0, len(rows), n)]
    texts = [Written("", math.nan)] * len(asked)
    with working("writing", len(asked) * how.max_new_tokens, "tokens", progress) as advance:
        for (_, temperature), rows in batches:
            arms = [asked[i][1] for i in rows]
            step = lambda _, n=len(arms): advance(n)  # noqa: B008, E731
            of_batch = lm.write(
                [questions[i] for i in rows],
                how.max_new_tokens,
                temperature,
                how.seed,
                step if progress else None,
                steering(lm, arms, how.tokens),
                [None if how.tokens == "generated" else id(arm) for arm in arms],
            )
            for i, text in zip(rows, of_batch, strict=True):
                texts[i] = text
    return texts


def steering(lm: FrozenLM, arms: Sequence[Arm], tokens: Tokens | None) -> Within:
    """Steers each row of a batch by its own arm while it is written."""

    def within(rows: Sequence[int], behind: bool) -> AbstractContextManager[None]:
        beyond: Tokens | Tensor = torch.zeros(len(rows), 1) if tokens == "prompt" else "all"
        return steered(lm, [arms[row] for row in rows], beyond if behind else tokens)

    return within


@contextmanager
def steered(lm: FrozenLM, arms: Sequence[Arm], tokens: Tokens | Tensor | None) -> Iterator[None]:
    """Steers each row of the forward passes within by its own arm; arms of one batch use as much of the adapter."""
    (scale,) = {arm.adapter for arm in arms}
    with ExitStack() as stack:
        stack.enter_context(lm.adapted(scale))
        for name in dict.fromkeys(arm.operator for arm in arms):
            vectors = _per_row(lm, [arm.vectors if arm.operator == name else {} for arm in arms])
            stack.enter_context(edit(vectors, operator_called(name), "all" if tokens is None else tokens))
        yield


def _per_row(lm: FrozenLM, vectors: Sequence[Mapping[int, Tensor]]) -> dict[nn.Module, Tensor]:
    """Block -> a vector for each row `[B, D]`, zeros where a row has none."""
    nothing = torch.zeros(lm.hidden_size)
    layers = sorted({layer for of_row in vectors for layer in of_row})
    return {
        lm.blocks[k]: torch.stack([of_row.get(k, nothing).cpu() for of_row in vectors]).to(lm.device) for k in layers
    }
