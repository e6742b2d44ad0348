"""What people's ratings can bear: how far raters agree, and a score's rank correlation with them when raters vary too."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from probe.metrics.bootstrap import Estimate, expanded_percentiles, group_bootstrap
from probe.metrics.ranks import Floats, mean, spearman


@dataclass(frozen=True)
class Agreement:
    """How far raters agree: the ceiling of what any score of the same texts can reach."""

    alpha: Estimate
    """Krippendorff's alpha for interval ratings: 1 agreement, 0 chance."""
    one_against_others: Estimate
    """Spearman of one rater with the mean of the others, averaged over raters."""
    n_raters: int

    @property
    def is_shown(self) -> bool:
        """Whether they agree at all: where not, nothing follows from a score that does not agree with them."""
        return self.one_against_others.lower > 0


def in_words(agreement: Agreement) -> str:
    """How far raters agree, and what that bears."""
    told = (
        f"{agreement.n_raters} raters agree with Krippendorff's alpha {agreement.alpha}, one with the mean of the others "
        f"by Spearman {agreement.one_against_others}"
    )
    return f"{told}: {BEARS[agreement.is_shown]}"


BEARS = {True: "about what any score can reach", False: "they are not shown to agree, so nothing can be concluded here"}


@dataclass(frozen=True)
class People:
    """A score against people, beside people against one another."""

    agreement: Agreement
    spearman: Estimate
    """Of the score with the raters' mean; the interval resamples groups and raters."""


def against_people(scores: Floats, ratings: Floats, groups: Sequence[str]) -> People | None:
    """Judges scores `[N]` by ratings `[N, R]`; None where no text has two ratings."""
    agreed = agreement(ratings, groups)
    return People(agreed, spearman_over_raters(scores, ratings, groups)) if agreed else None


def rating_matrix(raters: Sequence[Mapping[str, float] | None]) -> Floats:
    """Ratings `[N, R]` of N texts by R raters in the order of their names; nan where a rater gave none."""
    names = sorted({name for by_rater in raters for name in by_rater or ()})
    return np.array([[(by_rater or {}).get(name, np.nan) for name in names] for by_rater in raters]).reshape(
        len(raters), len(names)
    )


def agreement(ratings: Floats, groups: Sequence[str]) -> Agreement | None:
    """Agreement of ratings `[N, R]` with group-bootstrap intervals; None where no text has two ratings."""
    if ratings.shape[1] < 2 or (np.isfinite(ratings).sum(1) < 2).all():
        return None

    def statistic(weights: Floats) -> Floats:
        return np.stack([_alpha(ratings, weights), _one_against_others(ratings, weights)], axis=1)

    alpha, one = group_bootstrap(statistic, groups)
    return Agreement(alpha, one, ratings.shape[1])


def _alpha(ratings: Floats, weights: Floats) -> Floats:
    """1 - observed over expected disagreement `[R]`; squared differences are told by sums, so one pass serves all resamples.

    Source: Krippendorff 2011, "Computing Krippendorff's Alpha-Reliability", section C, interval metric.
    """
    given = np.isfinite(ratings)
    pairable = given.sum(1) > 1
    v, w = np.where(given, ratings, 0)[pairable], weights[:, pairable]
    m, total, squares = given[pairable].sum(1), v.sum(1), (v**2).sum(1)
    n = w @ m
    with np.errstate(invalid="ignore", divide="ignore"):
        observed = w @ (2 * (m * squares - total**2) / (m - 1)) / n
        expected = 2 * (n * (w @ squares) - (w @ total) ** 2) / (n * (n - 1))
        return np.asarray(1 - observed / expected)


def _one_against_others(ratings: Floats, weights: Floats) -> Floats:
    correlations = []
    for rater in range(ratings.shape[1]):
        others = mean(np.delete(ratings, rater, axis=1).T)
        both = np.isfinite(ratings[:, rater]) & np.isfinite(others)
        if both.sum() > 2:
            correlations.append(spearman(ratings[both, rater], others[both], weights[:, both])[:, 0])
    # A rater whose texts did not fall into a resample, or who gave them all one rating, says nothing there.
    return mean(np.stack(correlations)) if correlations else np.full(len(weights), np.nan)


def spearman_over_raters(
    scores: Floats, ratings: Floats, groups: Sequence[str], n_resamples: int = 1000, seed: int = 0
) -> Estimate:
    """Spearman of scores `[N]` with the mean of ratings `[N, R]`; the interval resamples groups and raters."""
    names, member = np.unique(np.asarray(groups), return_inverse=True)
    rng = np.random.default_rng(seed)
    draws = np.full(n_resamples, np.nan)
    for i in range(n_resamples):
        truth = mean(ratings[:, rng.integers(ratings.shape[1], size=ratings.shape[1])].T)
        weights = rng.multinomial(len(names), np.full(len(names), 1 / len(names)))[member].astype(np.float64)
        rated = np.isfinite(truth)
        draws[i] = spearman(scores[rated], truth[rated], weights[None, rated])[0, 0]
    truth = mean(ratings.T)
    rated = np.isfinite(truth)
    (lower,), (upper,) = expanded_percentiles(draws[:, None], len(names))
    value = float(spearman(scores[rated], truth[rated])[0])
    return Estimate(value, float(lower), float(upper), int(rated.sum()), len(names))
