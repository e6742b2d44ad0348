"""What was written, measured on clean forward passes: score, surprise, distance from the clean model, repetition, witnesses."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from probe.activations.pooling import Spans
from probe.data.reading import Passage
from probe.directions.direction import cosine_scores
from probe.lm.frozen import FrozenLM
from probe.lm.hooks import record
from probe.lm.spec import Tokens
from probe.lm.tokens import TokenBatch
from probe.lm.trees import TreeBatch
from probe.lm.writer import Written
from probe.metrics.texts import repetition
from probe.progress import working
from probe.steering.arms import Asked, steered
from probe.steering.settings import Sampling
from probe.steering.witness import Exhibit, Witness, hear

MEASURES = ("score", "extra_nll", "kl", "repetition")
"""Of every text; what witnesses measure comes behind."""


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


@dataclass(frozen=True)
class Readers:
    """Who reads what was written."""

    layer: int
    """Where texts are scored."""
    other: Tensor
    """Unit vector `[D]` that scores them, from other groups than those that steered."""
    witnesses: Sequence[Witness] = ()
    """Who else reads them."""


def measure(
    lm: FrozenLM, asked: Asked, written: Sequence[Written], how: Sampling, readers: Readers, progress: bool = False
) -> list[SteeredText]:
    """Measures texts on forward passes without any steering, after the prompt; only `kl` also asks the writer, as it was asked.

    Args:
        lm: The model that wrote them.
        asked: What was asked for.
        written: What was written; where it is not known how surprised its writer was (nan), that is read again.
        how: How it was written.
        readers: Who reads it.
        progress: Whether to say how far it is.
    """
    texts, layer = [one.text for one in written], readers.layer
    passages = [Passage(prompt, text) for (prompt, _), text in zip(asked, texts, strict=True)]
    scores = torch.full((len(texts),), torch.nan)

    def scored(batch: TreeBatch) -> AbstractContextManager[None]:
        """Reads the states on the way to the logits, so that a text is read once."""
        spans = Spans(batch.pool_mask)

        def read(_: int, h: Tensor) -> None:
            unit_mean = spans(h)[2].flatten(0, 1)[batch.place, None]
            scores[batch.example.cpu()] = cosine_scores(unit_mean, readers.other[None].to(h))[:, 0].cpu()

        return record({layer: lm.blocks[layer]}, read, stop=False)

    with lm.adapted(0), working("measuring", len(passages), "texts", progress) as advance:
        nll = lm.nll(passages, beside=scored, advance=advance)
    own_nll = _own_nll(lm, asked, written, how, nll, progress)
    plain = {
        prompt: i
        for i, (prompt, arm) in enumerate(asked)
        if not (arm.changes_the_model or arm.asks or arm.temperature is not None)
    }
    exhibits = [
        Exhibit(prompt, text, texts[plain[prompt]] if prompt in plain else None)
        for (prompt, _), text in zip(asked, texts, strict=True)
    ]
    said = hear(readers.witnesses, exhibits, MEASURES)
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
    lm: FrozenLM, asked: Asked, written: Sequence[Written], how: Sampling, clean: Tensor, progress: bool
) -> Tensor:
    """Mean NLL `[N]` of each text under the model that wrote it, asked as it was asked; `clean` where that is the clean one."""
    values = clean.clone()
    other = [i for i, (prompt, arm) in enumerate(asked) if arm.changes_the_model or prompt in arm.asks]
    values[other] = torch.tensor([written[i].nll for i in other])
    other = [i for i in other if values[i].isnan() and written[i].text.strip()]
    for _, group in groupby(sorted(other, key=lambda i: asked[i][1].adapter), lambda i: asked[i][1].adapter):
        rows = list(group)
        passages = [Passage(asked[i][1].question(asked[i][0]), written[i].text) for i in rows]

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
