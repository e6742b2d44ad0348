"""Steered generation: all arms of an experiment are written in shared batches, with common random numbers, and measured clean."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn

from probe.activations.pooling import Spans
from probe.data.reading import Passage
from probe.directions.direction import cosine_scores
from probe.lm.frozen import FrozenLM
from probe.lm.hooks import edit, record
from probe.lm.operators import operator_called
from probe.lm.spec import Tokens
from probe.lm.tokens import TokenBatch
from probe.lm.trees import TreeBatch
from probe.lm.writer import Written
from probe.lm.writing import Within
from probe.metrics.texts import repetition
from probe.progress import working
from probe.steering.settings import Sampling
from probe.steering.witness import Exhibit, Witness, hear

MEASURES = ("score", "extra_nll", "kl", "repetition")
"""Of every text; what witnesses measure comes behind."""


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


@dataclass(frozen=True)
class SteeredText:
    """One generated text and what was measured on it, on clean forward passes only."""

    prompt: str
    arm: str
    strength: float
    text: str
    score: float
    """Clean re-score with a direction from other groups; nan for an empty text."""
    extra_nll: float
    """Nats per token above the unsteered text of the same prompt, under the clean model; nan without one."""
    kl: float
    """Mean over the generated tokens of log p - log p clean, in nats: how far the writer, as steered and asked, has gone.

    Of the distributions at temperature 1, on a text that was sampled at the arm's own.
    """
    repetition: float
    seed: int
    witnessed: Mapping[str, float] = field(default_factory=dict)
    """Measure -> what a witness said of it."""

    @property
    def measures(self) -> list[str]:
        """What was measured on it, by name."""
        return [*MEASURES, *self.witnessed]

    def value(self, measure: str) -> float:
        """One of its measures; nan where it has none of that name."""
        return float(getattr(self, measure) if measure in MEASURES else self.witnessed.get(measure, float("nan")))

    def record(self) -> dict[str, Any]:
        """Everything side by side, for a file."""
        own = asdict(self)
        witnessed: dict[str, Any] = own.pop("witnessed")
        return own | witnessed


Asked = Sequence[tuple[str, Arm]]
"""A prompt and an arm for each text."""


def write(lm: FrozenLM, asked: Asked, how: Sampling, progress: bool = False) -> list[str]:
    """Writes a text for each prompt and arm."""
    return [found.text for found in written(lm, asked, how, progress)]


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
            found = lm.write(
                [questions[i] for i in rows],
                how.max_new_tokens,
                temperature,
                how.seed,
                step if progress else None,
                steering(lm, arms, how.tokens),
                [None if how.tokens == "generated" else id(arm) for arm in arms],
            )
            for i, text in zip(rows, found, strict=True):
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


def measure(
    lm: FrozenLM, asked: Asked, texts: Sequence[str], how: Sampling, layer: int, other: Tensor,
    witnesses: Sequence[Witness] = (), progress: bool = False, own: Sequence[float] | None = None,
) -> list[SteeredText]:  # fmt: skip
    """Measures texts on forward passes without any steering, after the prompt; only `kl` also asks the writer, as it was asked.

    Args:
        lm: The model that wrote them.
        asked: What was asked for.
        texts: What was written.
        how: How it was written.
        layer: Where the texts are scored.
        other: Unit vector `[D]` that scores them, from other groups than those that steered.
        witnesses: Who else reads them.
        progress: Whether to say how far it is.
        own: Mean -log p of each text under its writer as it wrote; where that is nan, or not known, the text is read again.
    """
    passages = [Passage(prompt, text) for (prompt, _), text in zip(asked, texts, strict=True)]
    scores = torch.full((len(texts),), torch.nan)

    def scored(batch: TreeBatch) -> AbstractContextManager[None]:
        """Reads the states on the way to the logits, so that a text is read once."""
        spans = Spans(batch.pool_mask)

        def read(_: int, h: Tensor) -> None:
            unit_mean = spans(h)[2].flatten(0, 1)[batch.place, None]
            scores[batch.example.cpu()] = cosine_scores(unit_mean, other[None].to(h))[:, 0].cpu()

        return record({layer: lm.blocks[layer]}, read, stop=False)

    with lm.adapted(0), working("measuring", len(passages), "texts", progress) as advance:
        nll = lm.nll(passages, beside=scored, advance=advance)
    own_nll = _own_nll(lm, asked, texts, how, nll, own, progress)
    plain = {
        prompt: i
        for i, (prompt, arm) in enumerate(asked)
        if not (arm.changes_the_model or arm.asks or arm.temperature is not None)
    }
    exhibits = [
        Exhibit(prompt, text, texts[plain[prompt]] if prompt in plain else None)
        for (prompt, _), text in zip(asked, texts, strict=True)
    ]
    said = hear(witnesses, exhibits, MEASURES)
    return [
        SteeredText(
            prompt=prompt,
            arm=arm.name,
            strength=arm.strength,
            text=texts[i],
            score=float(scores[i]),
            extra_nll=float(nll[i] - nll[plain[prompt]]) if prompt in plain else float("nan"),
            kl=float(nll[i] - own_nll[i]),
            repetition=repetition(texts[i]),
            seed=how.seed,
            witnessed=said[i],
        )
        for i, (prompt, arm) in enumerate(asked)
    ]


def _own_nll(
    lm: FrozenLM, asked: Asked, texts: Sequence[str], how: Sampling, clean: Tensor, known: Sequence[float] | None,
    progress: bool,
) -> Tensor:  # fmt: skip
    """Mean NLL `[N]` of each text under the model that wrote it, asked as it was asked; `clean` where that is the clean one."""
    values = clean.clone()
    other = [i for i, (prompt, arm) in enumerate(asked) if arm.changes_the_model or prompt in arm.asks]
    if known is not None:
        as_written = torch.tensor(known)
        values[other] = as_written[other]
        other = [i for i in other if as_written[i].isnan() and texts[i].strip()]
    for _, group in groupby(sorted(other, key=lambda i: asked[i][1].adapter), lambda i: asked[i][1].adapter):
        rows = list(group)
        passages = [Passage(asked[i][1].question(asked[i][0]), texts[i]) for i in rows]

        def within(batch: TokenBatch, rows: list[int] = rows) -> AbstractContextManager[None]:
            return steered(lm, [asked[rows[j]][1] for j in batch.example.tolist()], _where(batch, how))

        with working("measuring as written", len(rows), "texts", progress) as advance:
            values[rows] = lm.nll(passages, within, advance)
    return values


def _where(batch: TokenBatch, how: Sampling) -> Tokens | Tensor:
    """The steered tokens of whole texts: generated are those of the pooled response, and what comes before is the prompt."""
    if how.tokens in ("all", None):
        return "all"
    return batch.pool_mask if how.tokens == "generated" else 1 - batch.pool_mask
