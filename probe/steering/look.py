"""A quick look at a few layers: of those that read equally well, which one steers, and at what cost."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from probe.lm.spec import Budget
from probe.metrics.ranks import mean
from probe.steering.effects import values_of
from probe.steering.measuring import SteeredText


@dataclass(frozen=True)
class Look:
    """What one dose at one layer did to a few texts."""

    layer: int
    gain: float
    """In the clean re-score, above the plain texts of the same prompts."""
    extra_nll: float
    """Nats per token above the plain texts, under the clean model."""
    repetition: float
    """Share of 4-grams that repeat, above the plain texts."""
    affordable: bool
    """Whether both costs are within the budget."""


def compare_layers(
    plain: Sequence[SteeredText],
    steered: Mapping[int, Sequence[SteeredText]],
    strength: float = 1.0,
    budget: Budget | None = None,
) -> list[Look]:
    """A look for each layer: what can be afforded first, then by gain; texts are in the order of the same prompts.

    Below strength 0, where steering leads away, the greatest loss comes first. With a handful of prompts this is a choice, not
    a measurement: `sweep` measures.
    """
    budget = budget or Budget()

    def above(texts: Sequence[SteeredText], measure: str) -> float:
        return mean(values_of(texts, measure) - values_of(plain, measure)).item()

    looks = []
    for layer, texts in steered.items():
        gain, nll, repetition = (above(texts, measure) for measure in ("score", "extra_nll", "repetition"))
        affordable = nll <= budget.extra_nll and repetition <= budget.repetition
        looks.append(Look(layer, gain, nll, repetition, bool(affordable)))
    return sorted(
        looks, key=lambda look: (not look.affordable, -np.nan_to_num(look.gain * np.sign(strength), nan=-np.inf))
    )
