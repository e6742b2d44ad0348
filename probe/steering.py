"""Steered generation: all arms of an experiment are written in shared batches, with common random numbers, and measured clean."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from probe.activations import ActivationExtractor
from probe.directions import cosine_scores
from probe.hooks import Tokens, add
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


@dataclass(frozen=True)
class Arm:
    """One way to write: what is added to the residual stream, after which blocks; nothing is the unsteered model."""

    name: str
    deltas: Mapping[int, Tensor] = field(default_factory=dict)
    """Layer -> lambda * a `[D]`, absolute."""
    strength: float = 0.0
    """As the person said it, in their unit."""


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
    """Mean over the generated tokens of log p steered - log p clean: how far the steered model has gone, in nats."""
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

    # Prompts of like length side by side: less padding, fewer steps.
    order = sorted(range(len(asked)), key=lambda i: len(asked[i][0]))
    texts = [""] * len(asked)
    for start in track(range(0, len(order), how.rows), "writing", disable=not progress):
        rows = order[start : start + how.rows]
        with steered(lm, [asked[i][1] for i in rows], how.tokens):
            written = lm.generate([asked[i][0] for i in rows], how.max_new_tokens, how.temperature, how.seed)
        for i, text in zip(rows, written, strict=True):
            texts[i] = text
    return texts


@contextmanager
def steered(lm: FrozenLM, arms: Sequence[Arm], tokens: Tokens | Tensor) -> Iterator[None]:
    """Steers each row of the forward passes within by its own arm."""
    layers = sorted({layer for arm in arms for layer in arm.deltas})
    nothing = torch.zeros(lm.hidden_size)
    deltas = {k: torch.stack([arm.deltas.get(k, nothing).cpu() for arm in arms]).to(lm.device) for k in layers}
    with add({lm.blocks[k]: delta for k, delta in deltas.items()}, tokens):
        yield


def measure(
    lm: FrozenLM, asked: Asked, texts: Sequence[str], how: Sampling, layer: int, other: Tensor, witness: Witness
) -> list[SteeredText]:
    """Measures texts on forward passes without any steering; only `kl` also asks the steered model.

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
    if read:
        clean = ActivationExtractor(lm, [layer])([passages[i] for i in read])
        scores[read] = cosine_scores(clean.unit_mean, other[None])[:, 0]
    nll = lm.nll(passages)
    steered_nll = lm.nll(
        passages, lambda batch: steered(lm, [asked[i][1] for i in batch.example.tolist()], _where(batch, how))
    )
    unsteered = {prompt: float(nll[i]) for i, (prompt, arm) in enumerate(asked) if not arm.deltas}
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
                kl=float(nll[i] - steered_nll[i]),
                repetition=repetition(text),
                seed=how.seed,
                inventive_share=reading.inventive_share if reading else None,
                well_formed_share=reading.well_formed_share if reading else None,
                named_share=reading.named_share if reading else None,
            )
        )
    return found


def _where(batch: TokenBatch, how: Sampling) -> Tokens | Tensor:
    """The steered tokens of whole texts: generated are those of the pooled response, and what comes before is the prompt."""
    if how.tokens == "all":
        return "all"
    return batch.pool_mask if how.tokens == "generated" else 1 - batch.pool_mask
