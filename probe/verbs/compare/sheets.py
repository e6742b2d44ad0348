"""Score sheets: all contestants' cross-fitted scores of one test set, and the metrics of each."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from probe.data.reading import pairs
from probe.metrics.bootstrap import Estimate, group_bootstrap, paired_differences, within_folds
from probe.metrics.evaluation import band_percentiles
from probe.metrics.metric import METRICS, Metric, Scored, metric_named, scored_over
from probe.metrics.ranks import Floats, to_numpy
from probe.metrics.strata import strata
from probe.progress import track
from probe.verbs.compare.crossfit import CrossFit
from probe.verbs.compare.tournament import Fit


class Sheet:
    """All scores of one test set, a column `[N]` per contestant; folds are never ranked against one another.

    Args:
        crossfit: What was judged when.
        test: Name of the test set.
        fits: Contestant -> its fits, fold by fold.
        lengths: Token count `[N]` of each row.
    """

    def __init__(self, crossfit: CrossFit, test: str, fits: Mapping[str, Sequence[Fit]], lengths: Floats) -> None:
        self.rows = crossfit.tests[test].rows
        self.names, self.lengths, self.fold = list(fits), lengths, crossfit.fold(test)
        self.scores = np.stack([chosen_scores(crossfit, test, f) for f in fits.values()], axis=1)
        # A contestant without a number somewhere has none at all: fewer folds would be another, easier test.
        self.scores[:, ~np.isfinite(self.scores).all(0)] = np.nan
        self.n_folds = len(np.unique(self.fold))
        first, second = pairs(self.rows).T
        margins = self.scores[first] - self.scores[second]
        for column, contestant in enumerate(fits.values()):
            if f"preferred/{test}" in contestant[0].tensors:
                margins[:, column] = _gather(crossfit, test, contestant, "preferred", self.fold[first])
        self.over = scored_over(self.rows, self.scores, lengths, margins)

    def statistic(
        self, metric: Metric, less: str | None = None, part: Scored | None = None
    ) -> tuple[Callable[[Floats], Floats], list[str]]:
        """A metric as a statistic of weights, folds apart, and the groups of what it counts: all, or a part of it.

        With `less`, its difference to that contestant in each fold: a fold in which either has no number counts for neither.
        """
        judged, column = part or self.over[metric.over], self.names.index(less) if less else 0

        def of_fold(kept: NDArray[np.intp], weights: Floats) -> Floats:
            values = metric.of(judged[kept], weights)
            return values - values[:, [column]] if less else values

        return within_folds(of_fold, self.fold[judged.rows]), [self.rows[i].group for i in judged.rows]

    @property
    def metrics(self) -> list[Metric]:
        """The metrics that this test set has."""
        return [metric for metric in METRICS if metric.over in self.over]

    def estimates(self, n_resamples: int, metrics: Sequence[str] | None = None) -> dict[str, dict[str, Estimate]]:
        """Metric -> contestant -> estimate; all metrics by default."""
        wanted = self.metrics if metrics is None else [metric_named(name) for name in metrics]
        tracked = track(wanted, "judging by", len(wanted), "metrics", shown=metrics is None)
        of_metric = {m.name: group_bootstrap(*self.statistic(m), n_resamples, n_folds=self.n_folds) for m in tracked}
        return {metric: dict(zip(self.names, estimates, strict=True)) for metric, estimates in of_metric.items()}

    def within(self, n_resamples: int) -> dict[str, dict[str, Estimate]]:
        """Part of the texts or comparisons -> contestant -> the metric that is told of it: see `strata`."""
        of_part = {
            name: group_bootstrap(*self.statistic(metric, part=part), n_resamples, n_folds=self.n_folds)
            for name, (metric, part) in strata(self.rows, self.over, self.lengths).items()
        }
        return {name: dict(zip(self.names, estimates, strict=True)) for name, estimates in of_part.items()}

    def differences(self, metric: str, reference: str, n_resamples: int) -> dict[str, tuple[Estimate, float]]:
        """Contestant -> its metric less the reference's, and the p of no difference."""
        of_rival = paired_differences(
            *self.statistic(metric_named(metric), reference), n_resamples, n_folds=self.n_folds
        )
        return {name: x for name, x in zip(self.names, of_rival, strict=True) if name != reference}


def chosen_scores(crossfit: CrossFit, test: str, fits: Sequence[Fit]) -> Floats:
    """Scores `[N]` of the column that each fold's fit chose."""
    return _gather(crossfit, test, fits, "scores", crossfit.fold(test))


def _gather(crossfit: CrossFit, test: str, fits: Sequence[Fit], what: str, fold: NDArray[np.intp]) -> Floats:
    gathered = np.full(len(fold), np.nan)
    for k, fit in enumerate(fits):
        if f"{what}/{test}" in fit.tensors:
            values = to_numpy(fit.tensors[f"{what}/{test}"])
            gathered[fold == k] = (
                values if values.ndim == 1 else values[:, fit.facts["columns"].index(fit.facts["chosen"])]
            )
    return gathered


def band_estimates(crossfit: CrossFit, test: str, fits: Sequence[Fit], lengths: Floats) -> dict[str, Estimate]:
    """Median, 5th and 95th percentile over the directions of a band."""
    columns = {f"{i}": [only(fit, i) for fit in fits] for i in range(len(fits[0].facts["columns"]))}
    sheet = Sheet(crossfit, test, columns, lengths)
    of_band = {}
    for metric in sheet.metrics:
        statistic, groups = sheet.statistic(metric)
        values = statistic(np.ones((1, len(groups))))[0]
        low, median, high = band_percentiles(values)
        of_band[metric.name] = Estimate(float(median), float(low), float(high), len(groups), len(set(groups)))
    return of_band


def only(fit: Fit, column: int) -> Fit:
    """A fit as if it had chosen that column."""
    name = fit.facts["columns"][column]
    return Fit(fit.tensors, fit.facts | {"chosen": name})
