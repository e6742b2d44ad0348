"""Steered generation: all arms of an experiment are written in shared batches, with common random numbers, and measured clean."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from itertools import groupby
from typing import Literal

import torch
from torch import Tensor, nn

from probe.activations import ActivationExtractor
from probe.directions import cosine_scores
from probe.errors import ProbeError
from probe.hooks import Tokens, ablate, add
from probe.lm import FrozenLM
from probe.rows import Passage
from probe.storyteller import Oracle
from probe.textstats import repetition
from probe.tokens import TokenBatch

Witness = Literal["none", "storyteller"]
"""Who reads the texts and shares neither vector nor states with the steering; the grammar of the embedded model can."""
MEASURES = ("score", "extra_nll", "kl", "repetition", "inventive_share", "well_formed_share", "named_share")


@dataclass(frozen=True)
class Sampling:
    """How texts are written.

    Args:
        max_new_tokens: Length limit of a text.
        temperature: Sampling temperature; 0 is greedy.
        seed: Keys the noise, with the prompt and the step; all arms share it.
        tokens: Which tokens are steered: all, those of the prompt, or those generated.
        rows: Texts written at once: more is faster until memory ends.
    """

    max_new_tokens: int = 120
    temperature: float = 0.8
    seed: int = 0
    tokens: Tokens = "all"
    rows: int = 64

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise ProbeError(f"--max_new_tokens: expected 1 or more, found {self.max_new_tokens}; try 120.")
        if not 0 <= self.temperature < math.inf:
            raise ProbeError(f"--temperature: expected a finite number from 0, found {self.temperature}; 0 is greedy.")


@dataclass(frozen=True)
class Arm:
    """One way to write; where nothing is said, the unsteered model, asked with the prompt itself."""

    name: str
    deltas: Mapping[int, Tensor] = field(default_factory=dict)
    """Layer -> lambda * a `[D]`, absolute, added to the residual stream."""
    strength: float = 0.0
    """As the person said it, in their unit."""
    ablated: Mapping[int, Tensor] = field(default_factory=dict)
    """Layer -> unit vector `[D]` that is taken out of the residual stream."""
    adapter: float = 0.0
    """How much of the LM's adapter is used."""
    asks: Mapping[str, str] = field(default_factory=dict)
    """Prompt -> what the model is asked in its place; all else, what is measured too, goes by the prompt."""
    temperature: float | None = None
    """In place of the sampling's own."""

    @property
    def changes_the_model(self) -> bool:
        """Whether the model itself is another one than the clean one."""
        return bool(self.deltas or self.ablated or self.adapter)

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
    inventive_share: float | None = None
    well_formed_share: float | None = None
    named_share: float | None = None


Asked = Sequence[tuple[str, Arm]]
"""A prompt and an arm for each text."""


def write(lm: FrozenLM, asked: Asked, how: Sampling, progress: bool = False) -> list[str]:
    """Writes a text for each prompt and arm.

    Rows of one batch may be steered differently, each by its own delta `[B, D]` after each block.
    """
    from rich.progress import track

    def shared(i: int) -> tuple[float, float]:
        """What all rows of a batch have to share."""
        arm = asked[i][1]
        return arm.adapter, how.temperature if arm.temperature is None else arm.temperature

    questions = [arm.question(prompt) for prompt, arm in asked]
    # Questions of like length side by side: less padding, fewer steps.
    order = sorted(range(len(asked)), key=lambda i: (shared(i), len(questions[i])))
    alike = [(key, list(rows)) for key, rows in groupby(order, shared)]
    batches = [(key, rows[i : i + how.rows]) for key, rows in alike for i in range(0, len(rows), how.rows)]
    texts = [""] * len(asked)
    for (_, temperature), rows in track(batches, "writing", disable=not progress):
        with steered(lm, [asked[i][1] for i in rows], how.tokens):
            written = lm.generate([questions[i] for i in rows], how.max_new_tokens, temperature, how.seed)
        for i, text in zip(rows, written, strict=True):
            texts[i] = text
    return texts


@contextmanager
def steered(lm: FrozenLM, arms: Sequence[Arm], tokens: Tokens | Tensor) -> Iterator[None]:
    """Steers each row of the forward passes within by its own arm; arms of one batch use as much of the adapter."""
    (scale,) = {arm.adapter for arm in arms}
    taken_out = _per_row(lm, [arm.ablated for arm in arms])
    with lm.adapted(scale), ablate(taken_out), add(_per_row(lm, [arm.deltas for arm in arms]), tokens):
        yield


def _per_row(lm: FrozenLM, vectors: Sequence[Mapping[int, Tensor]]) -> dict[nn.Module, Tensor]:
    """Block -> a vector for each row `[B, D]`, zeros where a row has none."""
    nothing = torch.zeros(lm.hidden_size)
    layers = sorted({layer for of_row in vectors for layer in of_row})
    return {
        lm.blocks[k]: torch.stack([of_row.get(k, nothing).cpu() for of_row in vectors]).to(lm.device) for k in layers
    }


def measure(
    lm: FrozenLM, asked: Asked, texts: Sequence[str], how: Sampling, layer: int, other: Tensor, witness: Witness
) -> list[SteeredText]:
    """Measures texts on forward passes without any steering, after the prompt; only `kl` also asks the writer, as it was asked.

    Args:
        lm: The model that wrote them.
        asked: What was asked for.
        texts: What was written.
        how: How it was written.
        layer: Where the texts are scored.
        other: Unit vector `[D]` that scores them, from other groups than those that steered.
        witness: Who else reads them.
    """
    passages = [Passage(prompt, text) for (prompt, _), text in zip(asked, texts, strict=True)]
    read = [i for i, text in enumerate(texts) if text.strip()]
    scores = torch.full((len(texts),), torch.nan)
    with lm.adapted(0):
        if read:
            clean = ActivationExtractor(lm, [layer])([passages[i] for i in read])
            scores[read] = cosine_scores(clean.unit_mean, other[None])[:, 0]
        nll = lm.nll(passages)
    own = _own_nll(lm, asked, texts, how, nll)
    unsteered = {
        prompt: float(nll[i])
        for i, (prompt, arm) in enumerate(asked)
        if not (arm.changes_the_model or arm.asks or arm.temperature is not None)
    }
    oracle = Oracle() if witness == "storyteller" else None
    found = []
    for i, ((prompt, arm), text) in enumerate(zip(asked, texts, strict=True)):
        reading = oracle.read(text, prompt) if oracle else None
        found.append(
            SteeredText(
                prompt=prompt,
                arm=arm.name,
                strength=arm.strength,
                text=text,
                score=float(scores[i]),
                extra_nll=float(nll[i]) - unsteered.get(prompt, float("nan")),
                kl=float(nll[i] - own[i]),
                repetition=repetition(text),
                seed=how.seed,
                inventive_share=reading.inventive_share if reading else None,
                well_formed_share=reading.well_formed_share if reading else None,
                named_share=reading.named_share if reading else None,
            )
        )
    return found


def _own_nll(lm: FrozenLM, asked: Asked, texts: Sequence[str], how: Sampling, clean: Tensor) -> Tensor:
    """Mean NLL `[N]` of each text under the model that wrote it, asked as it was asked; `clean` where that is the clean one."""
    values = clean.clone()
    other = [i for i, (prompt, arm) in enumerate(asked) if arm.changes_the_model or prompt in arm.asks]
    for _, group in groupby(sorted(other, key=lambda i: asked[i][1].adapter), lambda i: asked[i][1].adapter):
        rows = list(group)
        passages = [Passage(asked[i][1].question(asked[i][0]), texts[i]) for i in rows]

        def within(batch: TokenBatch, rows: list[int] = rows) -> AbstractContextManager[None]:
            return steered(lm, [asked[rows[j]][1] for j in batch.example.tolist()], _where(batch, how))

        values[rows] = lm.nll(passages, within)
    return values


def _where(batch: TokenBatch, how: Sampling) -> Tokens | Tensor:
    """The steered tokens of whole texts: generated are those of the pooled response, and what comes before is the prompt."""
    if how.tokens == "all":
        return "all"
    return batch.pool_mask if how.tokens == "generated" else 1 - batch.pool_mask
