"""What a number is worth: group-bootstrap intervals, paired differences, and the correction of a family of tests.

A statistic takes weights `[R, N]`, how often each row comes in each of R resamples, and gives `[R, C]`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import compress

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from probe.metrics.ranks import Floats, mean

FEW_GROUPS = 20
"""Below this many groups a bootstrap interval is too narrow and no p-value is given."""
TIE = 1e-9
"""Draws that lie no further from the estimate equal it."""


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % group-bootstrap interval."""

    value: float
    lower: float
    upper: float
    n: int
    n_groups: int

    @property
    def too_few_groups(self) -> bool:
        """Whether the interval deserves its warning."""
        return self.n_groups < FEW_GROUPS

    @property
    def standard_error(self) -> float:
        """Half the interval over Student's 97.5 % quantile: of a mean of groups, the usual s / sqrt(G)."""
        return (self.upper - self.lower) / float(2 * stats.t.ppf(0.975, self.n_groups - 1))

    def __str__(self) -> str:
        if np.isnan(self.value):
            return "-"
        interval = "" if np.isnan(self.lower) else f" [{self.lower:.2f}, {self.upper:.2f}]"
        return f"{self.value:.2f}{interval}" + (" too few groups" if self.too_few_groups else "")


def within_folds(
    statistic: Callable[[NDArray[np.intp], Floats], Floats], fold: NDArray[np.intp]
) -> Callable[[Floats], Floats]:
    """A statistic of weights `[R, N]` -> `[R, C]` that never compares rows of different folds `[N]`.

    Scores of different folds come from different fits, whose offset and scale may differ. So `statistic` of a fold's rows
    `[n]` and their weights `[R, n]` -> `[R, C]` is averaged over folds by the rows drawn; a fold where it is nan has no say.
    Source: Forman and Scholz 2010, "Apples-to-Apples in Cross-Validation Studies" (AUC_avg, not AUC_merge).
    """
    members = [np.flatnonzero(fold == k) for k in np.unique(fold)] or [np.arange(0)]

    def average(weights: Floats) -> Floats:
        values = np.stack([statistic(rows, weights[:, rows]) for rows in members])
        drawn = np.stack([weights[:, rows].sum(1, keepdims=True) for rows in members])
        with np.errstate(invalid="ignore"):
            return np.asarray(np.nansum(values * drawn, 0) / (drawn * np.isfinite(values)).sum(0))

    return average


def group_bootstrap(
    statistic: Callable[[Floats], Floats],
    groups: Sequence[str],
    n_resamples: int = 1000,
    seed: int = 0,
    n_folds: int = 1,
) -> list[Estimate]:
    """Estimates of a statistic of weights `[R, N]` -> `[R, C]`, resampling whole groups with replacement.

    A resample is told by how often each row comes in it; the metrics above take such weights. A statistic that is averaged
    over folds takes its centre from each of them: it has G - n_folds degrees of freedom, not G - 1.
    """
    return _resample(statistic, groups, n_resamples, seed, n_folds)[0]


def paired_differences(
    statistic: Callable[[Floats], Floats],
    groups: Sequence[str],
    n_resamples: int = 1000,
    seed: int = 0,
    n_folds: int = 1,
) -> list[tuple[Estimate, float]]:
    """As `group_bootstrap`, for a statistic that is a difference to a reference: each with its two-sided p of being 0.

    p is nan below 20 groups, and 1 where the difference is 0 in every resample.
    """
    estimates, draws = _resample(statistic, groups, n_resamples, seed, n_folds)
    return [
        (estimate, _p_of_zero(estimate, column, n_folds)) for estimate, column in zip(estimates, draws.T, strict=True)
    ]


def mean_over(values: Floats, groups: Sequence[str]) -> Estimate:
    """Mean of values `[N]`, resampling groups; what could not be read is nan, is left out and is not counted in `n`."""
    return mean_and_p(values, groups)[0]


def mean_and_p(values: Floats, groups: Sequence[str]) -> tuple[Estimate, float]:
    """As `mean_over`, of differences to a reference: with the two-sided p of being 0."""
    readable = np.isfinite(values)
    return paired_differences(lambda w: mean(values[readable], w), list(compress(groups, readable)))[0]


def _resample(
    statistic: Callable[[Floats], Floats], groups: Sequence[str], n_resamples: int, seed: int, n_folds: int
) -> tuple[list[Estimate], Floats]:
    """Estimates of C numbers, and their values `[R, C]` in the resamples."""
    names, member = np.unique(np.asarray(groups), return_inverse=True)
    n_groups = len(names)
    if not n_groups:
        nothing = statistic(np.ones((1, 0)))
        return [Estimate(float(v), np.nan, np.nan, 0, 0) for v in nothing[0]], nothing
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(n_groups, np.full(n_groups, 1 / n_groups), size=n_resamples)
    value = statistic(np.ones((1, len(groups))))[0]
    draws = statistic(drawn[:, member].astype(np.float64))
    left_out = statistic((1 - np.eye(n_groups))[:, member]) if n_groups > 1 else np.full((1, len(value)), np.nan)
    ends = expanded_percentiles(draws, n_groups, *_bias_and_acceleration(value, draws, left_out), n_folds)
    return [
        Estimate(float(v), float(lower), float(upper), len(groups), n_groups)
        for v, lower, upper in zip(value, *ends, strict=True)
    ], draws


def _bias_and_acceleration(value: Floats, draws: Floats, left_out: Floats) -> tuple[Floats, Floats]:
    """What BCa corrects percentiles by `[C]`, from values `[G, C]` with a group left out each; 0 both where one is not finite.

    Near the end of a metric's range the draws are skewed and their spread falls as the value rises: plain percentiles lie
    too high there. Source: Efron 1987, "Better Bootstrap Confidence Intervals"; draws that equal the value count half.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        # Summed in another order, the same rows differ in their last digits.
        ties = np.isclose(draws, value, rtol=TIE, atol=TIE)
        side = np.nansum(np.where(ties, 0, np.sign(value - draws)), axis=0) / np.isfinite(draws).sum(0)
        bias = stats.norm.ppf((side + 1) / 2)
        influence = left_out.mean(0) - left_out
        acceleration = (influence**3).sum(0) / (6 * (influence**2).sum(0) ** 1.5)
    known = np.isfinite(bias) & np.isfinite(acceleration)
    return np.where(known, bias, 0), np.where(known, acceleration, 0)


def expanded_percentiles(
    draws: Floats, n_groups: int, bias: Floats | float = 0.0, acceleration: Floats | float = 0.0, n_folds: int = 1
) -> tuple[Floats, Floats]:
    """Ends `[C]` of 95 % intervals from draws `[R, C]` of G groups; nan for one group or where most draws are nan.

    Percentiles of G groups are too narrow, as z and a variance over G are beside t and one over G - 1. Percentiles further
    out make up for it, and stay within the metric's range: the expanded percentile interval of Hesterberg 2015, "What
    Teachers Should Know About the Bootstrap", arXiv 1411.5279. With a bias and an acceleration it is a BCa interval.
    """
    ends = np.full((2, draws.shape[1]), np.nan)
    usable = np.flatnonzero((np.isfinite(draws).mean(0) > 0.5) & (n_groups > n_folds))
    if len(usable):
        freedom = n_groups - n_folds
        z = np.sqrt(n_groups / freedom) * stats.t.ppf([[0.025], [0.975]], freedom) + bias
        # Beyond its pole the correction folds over and puts both ends on one side: there it is left out.
        acceleration = np.where(np.max(acceleration * z, axis=0) < 1, acceleration, 0)
        tails = np.broadcast_to(stats.norm.cdf(bias + z / (1 - acceleration * z)), ends.shape)
        for column in usable:
            ends[:, column] = np.nanquantile(draws[:, column], tails[:, column])
    return ends[0], ends[1]


def _p_of_zero(estimate: Estimate, draws: Floats, n_folds: int) -> float:
    """Two-sided p of the value 0 from draws `[R]`: value over bootstrap standard error, on Student's t of G - n_folds.

    Error times sqrt(G / (G - n_folds)) and Student's t are the least that few clusters ask for: Cameron, Gelbach and Miller 2008,
    "Bootstrap-Based Improvements for Inference with Clustered Errors", conclusion.
    """
    if estimate.too_few_groups or np.isnan(estimate.lower):
        return float("nan")
    freedom = estimate.n_groups - n_folds
    error = np.nanstd(draws) * np.sqrt(estimate.n_groups / freedom)
    if np.isclose(error, 0):  # the same in every resample: no difference at all, or one that nothing is known about
        return 1.0 if np.isclose(estimate.value, 0) else float("nan")
    return float(2 * stats.t.sf(abs(estimate.value) / error, freedom))


def holm(p: Sequence[float]) -> list[float]:
    """Adjusted p-values, in the order given: below 0.05 with a chance of at most 5 % that any is so wrongly.

    nan stays nan and counts for nothing. Source: Holm 1979, "A Simple Sequentially Rejective Multiple Test Procedure".
    """
    values = np.asarray(p, dtype=np.float64)
    order = np.argsort(values)  # nan last
    not_yet_rejected = np.isfinite(values).sum() - np.arange(len(values))
    adjusted = np.empty_like(values)
    adjusted[order] = np.maximum.accumulate(values[order] * not_yet_rejected).clip(max=1)
    return [float(value) for value in adjusted]
