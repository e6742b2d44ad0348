"""Score sheets: all contestants' cross-fitted scores of one test set, and the metrics of each."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from probe.bootstrap import Estimate, group_bootstrap, paired_differences, within_folds
from probe.crossfit import CrossFit
from probe.evaluation import EvaluationSet
from probe.metrics import Floats, auroc, pair_accuracy, spearman, to_numpy
from probe.tournament import Fit

METRICS = ("spearman", "auroc", "pair_accuracy", "length")
"""`auroc`: the upper against the lower half of the ratings, or the classes of pairs. `pair_accuracy`: of pairs, or of people's
preferences."""
Rows = NDArray[np.intp]


class Sheet:
    """All scores of one test set, a column `[N]` per contestant; folds are never ranked against one another.

    Args:
        crossfit: What was judged when.
        test: Name of the test set.
        fits: Contestant -> its fits, fold by fold.
        lengths: Token count `[N]` of each row.
    """

    def __init__(self, crossfit: CrossFit, test: str, fits: Mapping[str, Sequence[Fit]], lengths: Floats) -> None:
        rows = crossfit.tests[test].rows
        self.names, self.lengths, self.fold = list(fits), lengths, crossfit.fold(test)
        self.groups = [row.group for row in rows]
        self.rated = rows[0].comparison < 0
        self.truth = np.array([row.truth for row in rows])
        middle = EvaluationSet(rows).middle if self.rated else np.nan
        self.high, self.unequal = self.truth > middle, self.truth != middle
        self.scores = np.stack([chosen_scores(crossfit, test, f) for f in fits.values()], axis=1)
        # A contestant without a number somewhere has none at all: fewer folds would be another, easier test.
        self.scores[:, ~np.isfinite(self.scores).all(0)] = np.nan
        self.n_folds = len(np.unique(self.fold))
        self.compared = crossfit.tests[test].compared
        margins = self.scores[::2] - self.scores[1::2] if self.compared else self.scores[:0]
        for column, contestant in enumerate(fits.values()):
            if self.compared and f"preferred/{test}" in contestant[0].tensors:
                margins[:, column] = _gather(crossfit, test, contestant, "preferred", self.fold[::2])
        # A pair's first text is its creative side; of two stories that people compared, the second may have won.
        won = np.sign(self.truth[::2] - self.truth[1::2]) if self.compared else self.truth[:0]
        self.decided = np.flatnonzero(won)
        self.margins = (margins * won[:, None])[self.decided]

    def spearman(self, rows: Rows, weights: Floats) -> Floats:
        """With the truth `[R, C]`."""
        return spearman(self.scores[rows], self.truth[rows], weights)

    def auroc(self, rows: Rows, weights: Floats) -> Floats:
        """Of the upper against the lower half of the truth `[R, C]`."""
        kept = self.unequal[rows]
        return auroc(self.scores[rows[kept]], self.high[rows[kept]], weights[:, kept])

    def length(self, rows: Rows, weights: Floats) -> Floats:
        """Spearman of score and token count `[R, C]`."""
        return spearman(self.scores[rows], self.lengths[rows], weights)

    def pair_accuracy(self, rows: Rows, weights: Floats) -> Floats:
        """Share of decided comparisons won `[R, C]`."""
        return pair_accuracy(self.margins[rows], np.zeros_like(self.margins[rows]), weights)

    def statistic(self, metric: str, less: str | None = None) -> tuple[Callable[[Floats], Floats], list[str]]:
        """A metric as a statistic of weights, folds apart, and the groups of what it counts.

        With `less`, its difference to that contestant in each fold: a fold in which either has no number counts for neither.
        """
        of_rows: Callable[[Rows, Floats], Floats] = getattr(self, metric)
        column = self.names.index(less) if less else 0

        def difference(rows: Rows, weights: Floats) -> Floats:
            values = of_rows(rows, weights)
            return values - values[:, [column]]

        used = difference if less else of_rows
        if metric == "pair_accuracy":
            first = 2 * self.decided
            return within_folds(used, self.fold[first]), [self.groups[i] for i in first]
        return within_folds(used, self.fold), self.groups

    @property
    def metrics(self) -> list[str]:
        """The metrics that this test set has."""
        has = {"pair_accuracy": self.compared, "length": True}
        return [metric for metric in METRICS if has.get(metric, self.rated)]

    def estimates(self, n_resamples: int, metrics: Sequence[str] | None = None) -> dict[str, dict[str, Estimate]]:
        """Metric -> contestant -> estimate; all metrics by default."""
        wanted = self.metrics if metrics is None else metrics
        found = {m: group_bootstrap(*self.statistic(m), n_resamples, n_folds=self.n_folds) for m in wanted}
        return {metric: dict(zip(self.names, estimates, strict=True)) for metric, estimates in found.items()}

    def differences(self, metric: str, reference: str, n_resamples: int) -> dict[str, tuple[Estimate, float]]:
        """Contestant -> its metric less the reference's, and the p of no difference."""
        found = paired_differences(*self.statistic(metric, reference), n_resamples, n_folds=self.n_folds)
        return {name: x for name, x in zip(self.names, found, strict=True) if name != reference}


def chosen_scores(crossfit: CrossFit, test: str, fits: Sequence[Fit]) -> Floats:
    """Scores `[N]` of the column that each fold's fit chose."""
    return _gather(crossfit, test, fits, "scores", crossfit.fold(test))


def _gather(crossfit: CrossFit, test: str, fits: Sequence[Fit], what: str, fold: NDArray[np.intp]) -> Floats:
    found = np.full(len(fold), np.nan)
    for k, fit in enumerate(fits):
        if f"{what}/{test}" in fit.tensors:
            values = to_numpy(fit.tensors[f"{what}/{test}"])
            found[fold == k] = (
                values if values.ndim == 1 else values[:, fit.facts["columns"].index(fit.facts["chosen"])]
            )
    return found


def band_estimates(crossfit: CrossFit, test: str, fits: Sequence[Fit], lengths: Floats) -> dict[str, Estimate]:
    """Median, 5th and 95th percentile over the directions of a band."""
    columns = {f"{i}": [only(fit, i) for fit in fits] for i in range(len(fits[0].facts["columns"]))}
    sheet = Sheet(crossfit, test, columns, lengths)
    found = {}
    for metric in sheet.metrics:
        statistic, groups = sheet.statistic(metric)
        values = statistic(np.ones((1, len(groups))))[0]
        low, median, high = np.nanpercentile(values, [5, 50, 95])
        found[metric] = Estimate(float(median), float(low), float(high), len(groups), len(set(groups)))
    return found


def only(fit: Fit, column: int) -> Fit:
    """A fit as if it had chosen that column."""
    name = fit.facts["columns"][column]
    return Fit(fit.tensors, fit.facts | {"chosen": name})
