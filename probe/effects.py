"""What steering did: means over prompts with intervals, diversity of the texts, and how many prompts moved the wrong way."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

import numpy as np

from probe.bootstrap import Estimate, group_bootstrap
from probe.metrics import Floats
from probe.steering import MEASURES, SteeredText
from probe.textstats import compression_ratio, distinct, self_bleu

DIGITS = {"score": 3, "extra_nll": 3, "kl": 3}
"""Of measures that are small; two for all others."""
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
    rows = [
        (float(value), group_of.get(s.prompt, s.prompt))
        for s in samples
        if (value := getattr(s, measure)) is not None and np.isfinite(value)
    ]
    if not rows:
        return Estimate(np.nan, np.nan, np.nan, 0, 0)
    values = np.array([value for value, _ in rows])
    return group_bootstrap(lambda w: (w @ values / w.sum(1))[:, None], [group for _, group in rows])[0]


def summary(samples: Sequence[SteeredText], group_of: Mapping[str, str] = MappingProxyType({})) -> dict[str, Estimate]:
    """Measure -> mean over a set of texts; and how diverse the set is."""
    found = {m: mean_over_prompts(samples, m, group_of) for m in MEASURES if getattr(samples[0], m) is not None}
    texts = [s.text for s in samples]
    return found | {m: Estimate(of(texts), np.nan, np.nan, len(texts), len(texts)) for m, of in DIVERSITY.items()}


def curves(samples: Sequence[SteeredText], group_of: Mapping[str, str] = MappingProxyType({})) -> dict[str, Curve]:
    """Measure -> strength -> mean over the prompts, of samples that differ in nothing but the strength."""
    of_strength = {x: [s for s in samples if s.strength == x] for x in sorted({s.strength for s in samples})}
    means = {x: summary(texts, group_of) for x, texts in of_strength.items()}
    found = {m: {x: means[x][m] for x in means} for m in next(iter(means.values()), {})}
    if wrong := {
        x: moved_wrong(of_strength[0.0], of_strength[x], group_of) for x in of_strength if x and 0.0 in of_strength
    }:
        found["moved_wrong"] = wrong
    return found


def share_of_gap(
    uncreative: Sequence[SteeredText],
    steered: Sequence[SteeredText],
    creative: Sequence[SteeredText],
    groups: Sequence[str],
    told: str,
) -> Estimate:
    """(steered - uncreative) / (creative - uncreative) in the mean of a measure; the interval resamples groups."""
    values = np.stack([values_of(texts, told) for texts in (uncreative, steered, creative)])
    seen = np.isfinite(values)
    values = np.where(seen, values, 0.0)

    def statistic(weights: Floats) -> Floats:
        with np.errstate(invalid="ignore", divide="ignore"):
            low, ours, high = (weights @ values.T / (weights @ seen.T.astype(float))).T
            return np.asarray((ours - low) / (high - low))[:, None]

    return group_bootstrap(statistic, groups)[0]


def values_of(texts: Sequence[SteeredText], measure: str) -> Floats:
    """The measure `[N]` of each text; nan where it has none."""
    return np.array([getattr(text, measure) for text in texts], dtype=np.float64)


def moved_wrong(
    before: Sequence[SteeredText], after: Sequence[SteeredText], group_of: Mapping[str, str] = MappingProxyType({})
) -> Estimate:
    """Share of prompts whose text moved against the steering: by the witness where there is one, else by the clean score."""
    start = {s.prompt: _witnessed(s) for s in before}
    sign = np.sign(after[0].strength) if after else 1.0
    wrong = [replace(s, score=float(sign * (_witnessed(s) - start[s.prompt]) < 0)) for s in after if s.prompt in start]
    return mean_over_prompts(wrong, "score", group_of)


def _witnessed(sample: SteeredText) -> float:
    return sample.score if sample.inventive_share is None else sample.inventive_share


def band(arms: Sequence[Sequence[SteeredText]]) -> dict[str, dict[float, tuple[float, float]]]:
    """Measure -> strength -> 5th and 95th percentile of the means of random directions, an arm each."""
    of_arm = [{m: {x: _mean(arm, m, x) for x in sorted({s.strength for s in arm})} for m in MEASURES} for arm in arms]
    found: dict[str, dict[float, tuple[float, float]]] = {}
    for measure in MEASURES if of_arm else ():
        for strength in of_arm[0][measure]:
            values = np.array([arm[measure][strength] for arm in of_arm])
            if np.isfinite(values).all():
                low, high = np.percentile(values, [5, 95])
                found.setdefault(measure, {})[strength] = (float(low), float(high))
    return found


def _mean(samples: Sequence[SteeredText], measure: str, strength: float) -> float:
    values: Floats = np.array([getattr(s, measure) for s in samples if s.strength == strength], dtype=np.float64)
    values = values[np.isfinite(values)]
    return float(values.mean()) if len(values) else float("nan")
