"""What a split's scores are worth: every metric with its interval, beside length, bag of words and random directions."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any, TypeVar

import numpy as np

from probe.data.reading import Row
from probe.metrics.bootstrap import Estimate, group_bootstrap
from probe.metrics.metric import METRICS, Metric, Scored, scored_over
from probe.metrics.people import People, against_people, rating_matrix
from probe.metrics.ranks import Floats, spearman
from probe.metrics.strata import strata
from probe.progress import track

K = TypeVar("K")


@dataclass(frozen=True)
class Evaluation:
    """Metric -> column (layer or control) -> estimate, for one split."""

    estimates: dict[str, dict[str, Estimate]]
    n_stories: int
    n_pairs: int
    within: dict[str, dict[str, Estimate]] = field(default_factory=dict)
    """Part of the texts or comparisons -> column -> the metric that is told of it: see `strata`."""

    @property
    def told(self) -> list[str]:
        """The metrics that say anything about these texts."""
        return [m for m, of in self.estimates.items() if np.isfinite([e.value for e in of.values()]).any()]

    def as_records(self) -> list[dict[str, Any]]:
        """One flat record per number, for CSV."""
        tables = self.estimates | {f"within: {part}": columns for part, columns in self.within.items()}
        return [
            {"metric": metric, "column": column, **asdict(estimate)}
            for metric, columns in tables.items()
            for column, estimate in columns.items()
        ]


class EvaluationSet:
    """The truth of one split: rated stories where there are some, else the classes of its pairs."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = rows
        nothing = np.zeros(len(rows))
        over = scored_over(rows, nothing[:, None], nothing)
        of_truth = over["judged"] if "judged" in over else over["texts"][np.arange(0)]
        self.judged, self.truth, self.middle = of_truth.rows, of_truth.truth, of_truth.middle
        self.groups = self.groups_of(of_truth)
        self.n_stories = sum(row.is_story for row in rows)
        self.n_pairs = len(over["pairs"].rows) if "pairs" in over else 0
        self.ratings = rating_matrix([rows[i].raters for i in self.judged])

    def groups_of(self, judged: Scored) -> list[str]:
        """The group of each text or pair."""
        return [self.rows[i].group for i in judged.rows]

    def evaluate(
        self, columns: Mapping[str, Floats], lengths: Floats, n_resamples: int = 1000, progress: bool = False
    ) -> Evaluation:
        """Evaluates named score columns `[N]` of this split's rows; `lengths` `[N]` are token counts."""
        over = scored_over(self.rows, np.stack(list(columns.values()), axis=1), lengths)
        told = [metric for metric in METRICS if metric.over in over and len(over[metric.over].rows)]

        def estimates(metric: Metric, judged: Scored) -> dict[str, Estimate]:
            intervals = group_bootstrap(partial(metric.of, judged), self.groups_of(judged), n_resamples)
            return dict(zip(columns, intervals, strict=True))

        tracked = track(told, "judging by", len(told), "metrics", shown=progress)
        table = {metric.name: estimates(metric, over[metric.over]) for metric in tracked}
        within = {part: estimates(*of_part) for part, of_part in strata(self.rows, over, lengths).items()}
        return Evaluation(table, self.n_stories, self.n_pairs, within)

    def difference(self, ours: Floats, theirs: Floats) -> Estimate:
        """Paired group-bootstrap estimate of Spearman(ours) - Spearman(theirs), both `[N]`."""

        both = np.stack([ours[self.judged], theirs[self.judged]], axis=1)

        def statistic(w: Floats) -> Floats:
            rho = spearman(both, self.truth, w)
            return rho[:, :1] - rho[:, 1:]

        return group_bootstrap(statistic, self.groups)[0]

    def spearman_of(self, columns: Mapping[int, Floats]) -> dict[int, Estimate]:
        """Spearman alone, with its interval, of score columns `[N]` by layer: all that the choice of a layer needs."""
        judged = np.stack([scores[self.judged] for scores in columns.values()], axis=1)
        estimates = group_bootstrap(lambda w: spearman(judged, self.truth, w), self.groups)
        return dict(zip(columns, estimates, strict=True))

    def people(self, scores: Floats) -> People | None:
        """Scores `[N]` against people, and people against one another; None where at most one rated."""
        return against_people(scores[self.judged], self.ratings, self.groups)

    @property
    def ceiling(self) -> float:
        """Spearman of a score without ties that orders the texts perfectly: 0.87 where the truth is a half and a half."""
        order: Floats = np.argsort(np.argsort(self.truth, kind="stable")).astype(np.float64)
        return float(spearman(order[:, None], self.truth).squeeze())

    def spearman(self, scores: Floats) -> Floats:
        """Spearman `[...]` of scores `[N, ...]` with the truth."""
        return spearman(scores[self.judged].reshape(len(self.judged), -1), self.truth).reshape(scores.shape[1:])


def tied_layers(spearman_by_layer: Mapping[K, Estimate]) -> list[K]:
    """The layers whose validation Spearman lies within one standard error of the best; all of them where none has one."""
    usable = {k: e for k, e in spearman_by_layer.items() if np.isfinite(e.value)}
    if not usable:
        return list(spearman_by_layer)
    best = max(usable.values(), key=lambda e: e.value)
    return [k for k, e in usable.items() if e.value >= best.value - np.nan_to_num(best.standard_error)]


def nearest_to(middle: float, layers: Sequence[int]) -> list[int]:
    """Layers in the order of their distance from the middle of the model, where the paper found steering to balance best.

    The size of the class gap decides nothing: it grows with the length of the states, and in a real model all layers tie on
    an easy contrast, of which the first has the largest relative gap and writes no English when steered.
    """
    return sorted(layers, key=lambda k: (abs(k - middle), k))


def random_band(chosen_on: Floats, judged_on: Floats) -> Floats:
    """Spearman `[R]` of random directions that were given our choices: layer and sign, made on other data.

    Both arguments are Spearman correlations `[L, R]`; the first decides, the second is read.
    """
    chosen_on, judged_on = np.nan_to_num(chosen_on), np.nan_to_num(judged_on)
    layer = np.abs(chosen_on).argmax(0)
    columns = np.arange(chosen_on.shape[1])
    return np.asarray(np.sign(chosen_on[layer, columns]) * judged_on[layer, columns])


def band_percentiles(values: Floats) -> Floats:
    """The 5th, 50th and 95th percentile `[3]` of what random directions reached `[...]`; nan where none has a number."""
    reached = values[np.isfinite(values)]
    return np.asarray(np.percentile(reached, [5, 50, 95])) if len(reached) else np.full(3, np.nan)
