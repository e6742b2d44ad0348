"""What steering did: means over prompts with intervals, diversity of the texts, and how many prompts moved the wrong way."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

import numpy as np

from probe.data.concept import less
from probe.metrics.bootstrap import Estimate, group_bootstrap, mean_and_p, mean_over
from probe.metrics.ranks import Floats, mean
from probe.metrics.texts import compression_ratio, distinct, self_bleu
from probe.steering.measuring import SteeredText
from probe.steering.witness import SCORE

Curve = dict[float, Estimate]
"""Strength -> estimate."""


DIVERSITY: dict[str, Callable[[list[str]], float]] = {
    "distinct_1": lambda texts: distinct(texts, 1),
    "distinct_2": lambda texts: distinct(texts, 2),
    "self_bleu": self_bleu,
    "compression_ratio": compression_ratio,
}
"""Of a whole set of texts: resampling texts would repeat some, and so change what is measured; no interval."""


def mean_over_prompts(
    samples: Sequence[SteeredText], measure: str, group_of: Mapping[str, str] = MappingProxyType({})
) -> Estimate:
    """Mean of a measure over texts, nan left out; the interval resamples prompts, or the groups that they belong to."""
    estimates = mean_over(values_of(samples, measure), _groups(samples, group_of))
    if measure != "kl":
        return estimates
    # The mean log-ratio of few texts can fall below 0; the divergence that it estimates cannot.
    value, lower, upper = np.maximum([estimates.value, estimates.lower, estimates.upper], 0).tolist()
    return replace(estimates, value=value, lower=lower, upper=upper)


def _groups(samples: Sequence[SteeredText], group_of: Mapping[str, str]) -> list[str]:
    return [group_of.get(s.prompt, s.prompt) for s in samples]


def summary(samples: Sequence[SteeredText], group_of: Mapping[str, str] = MappingProxyType({})) -> dict[str, Estimate]:
    """Measure -> mean over a set of texts; and how diverse the set is."""
    means = {m: mean_over_prompts(samples, m, group_of) for m in samples[0].measures}
    texts = [s.text for s in samples]
    return means | {m: Estimate(of(texts), np.nan, np.nan, len(texts), len(texts)) for m, of in DIVERSITY.items()}


def curves(
    samples: Sequence[SteeredText], group_of: Mapping[str, str] = MappingProxyType({}), told: str = SCORE
) -> dict[str, Curve]:
    """Measure -> strength -> mean over the prompts, of samples that differ in nothing but the strength."""
    of_strength = {x: [s for s in samples if s.strength == x] for x in sorted({s.strength for s in samples})}
    means = {x: summary(texts, group_of) for x, texts in of_strength.items()}
    of_measure = {m: {x: means[x][m] for x in means} for m in next(iter(means.values()), {})}
    if wrong := {
        x: moved_wrong(of_strength[0.0], of_strength[x], group_of, told)
        for x in of_strength
        if x and 0.0 in of_strength
    }:
        of_measure["moved_wrong"] = wrong
    return of_measure


def difference(
    one: Sequence[SteeredText], other: Sequence[SteeredText], groups: Sequence[str], told: str
) -> tuple[Estimate, float]:
    """By how much one set exceeds another in a measure, over the same prompts in one order; with a p value."""
    return mean_and_p(values_of(one, told) - values_of(other, told), groups)


def not_apart(gap: Estimate, concept: str) -> list[str]:
    """What is to be said where creative prompts and uncreative ones do not differ, so that no share of their gap means much."""
    if gap.lower > 0 or gap.upper < 0:
        return []
    return [
        f"But {concept} and {less(concept)} prompts are not told apart here ({gap}), so there is no way to go a share of."
    ]


def share_of_gap(
    uncreative: Sequence[SteeredText],
    steered: Sequence[SteeredText],
    creative: Sequence[SteeredText],
    groups: Sequence[str],
    told: str,
) -> Estimate:
    """(steered - uncreative) / (creative - uncreative) in the mean of a measure; the interval resamples groups."""
    values = np.stack([values_of(texts, told) for texts in (uncreative, steered, creative)], axis=1)

    def statistic(weights: Floats) -> Floats:
        low, ours, high = mean(values, weights).T
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray((ours - low) / (high - low))[:, None]

    return group_bootstrap(statistic, groups)[0]


def values_of(texts: Sequence[SteeredText], measure: str) -> Floats:
    """The measure `[N]` of each text; nan where it has none."""
    return np.array([text.value(measure) for text in texts], dtype=np.float64)


def moved_wrong(
    before: Sequence[SteeredText],
    after: Sequence[SteeredText],
    group_of: Mapping[str, str] = MappingProxyType({}),
    told: str = SCORE,
) -> Estimate:
    """Share of texts that moved against the steering, by the measure that says what it gained.

    Of the texts that could be read, before and after: one that could not has moved neither way, and is not in `n`.
    """
    start = {s.prompt: s.value(told) for s in before}
    after = [s for s in after if s.prompt in start]
    moved = np.array([np.sign(s.strength) * (s.value(told) - start[s.prompt]) for s in after], dtype=np.float64)
    return mean_over(np.where(np.isfinite(moved), moved < 0, np.nan), _groups(after, group_of))


def band(arms: Sequence[Sequence[SteeredText]]) -> dict[str, dict[float, tuple[float, float]]]:
    """Measure -> strength -> 5th and 95th percentile of the means of random directions, an arm each."""
    measures = arms[0][0].measures if arms else []
    of_arm = [
        {
            m: {x: _mean([s for s in arm if s.strength == x], m) for x in sorted({s.strength for s in arm})}
            for m in measures
        }
        for arm in arms
    ]
    bands: dict[str, dict[float, tuple[float, float]]] = {}
    for measure in measures:
        for strength in of_arm[0][measure]:
            values = np.array([arm[measure][strength] for arm in of_arm])
            if np.isfinite(values).all():
                low, high = np.percentile(values, [5, 95])
                bands.setdefault(measure, {})[strength] = (float(low), float(high))
    return bands


def _mean(samples: Sequence[SteeredText], measure: str) -> float:
    return float(mean(values_of(samples, measure))[0])
