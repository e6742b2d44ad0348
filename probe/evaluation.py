"""What a split's scores are worth: every metric with its interval, beside length, bag of words and random directions."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from probe.data import Row
from probe.metrics import Estimate, Floats, auroc, group_bootstrap, pair_accuracy, spearman

METRICS = ("spearman", "spearman_low", "spearman_high", "auroc", "pair_accuracy", "length")
"""`spearman_low` and `_high`: within the stories below and above the middle of the ratings, where a strong switch
cannot help. `length`: rank correlation of score and token count."""


@dataclass(frozen=True)
class Evaluation:
    """Metric -> column (layer or control) -> estimate, for one split."""

    estimates: dict[str, dict[str, Estimate]]
    n_stories: int
    n_pairs: int

    def as_records(self) -> list[dict[str, Any]]:
        """One flat record per number, for CSV."""
        return [
            {"metric": metric, "column": column, **asdict(estimate)}
            for metric, columns in self.estimates.items()
            for column, estimate in columns.items()
        ]


class EvaluationSet:
    """The truth of one split: rated stories where there are some, else the classes of its pairs."""

    def __init__(self, rows: Sequence[Row]) -> None:
        stories = [i for i, row in enumerate(rows) if row.pair < 0]
        paired = [i for i, row in enumerate(rows) if row.pair >= 0]
        self.judged = np.array(stories or paired, dtype=np.intp)
        self.n_stories, self.n_pairs = len(stories), len(paired) // 2
        self.truth = np.array([rows[i].truth for i in self.judged])
        self.groups = [rows[i].group for i in self.judged]
        self.creative, self.uncreative = (np.array(paired[side::2], dtype=np.intp) for side in (0, 1))
        self.pair_groups = [rows[i].group for i in self.creative]
        self.middle = (self.truth.min() + self.truth.max()) / 2 if len(self.truth) else float("nan")

    def evaluate(self, columns: Mapping[str, Floats], lengths: Floats, n_resamples: int = 1000) -> Evaluation:
        """Evaluates named score columns `[N]` of this split's rows; `lengths` `[N]` are token counts."""
        names = list(columns)
        scores = np.stack([columns[name] for name in names], axis=1)
        judged, tokens = scores[self.judged], lengths[self.judged]

        low, high = self.truth < self.middle, self.truth > self.middle
        unequal = low | high

        def on_stories(w: Floats) -> Floats:
            halves = [spearman(judged[half], self.truth[half], w[:, half]) for half in (low, high)]
            area = auroc(judged[unequal], high[unequal], w[:, unequal])
            return np.hstack([spearman(judged, self.truth, w), *halves, area, spearman(judged, tokens, w)])

        def on_pairs(w: Floats) -> Floats:
            return pair_accuracy(scores[self.creative], scores[self.uncreative], w)

        estimates = group_bootstrap(on_stories, self.groups, n_resamples)
        story_metrics = [m for m in METRICS if m != "pair_accuracy"]
        table = {
            metric: dict(zip(names, estimates[i * len(names) : (i + 1) * len(names)], strict=True))
            for i, metric in enumerate(story_metrics)
        }
        if self.n_pairs:
            table["pair_accuracy"] = dict(
                zip(names, group_bootstrap(on_pairs, self.pair_groups, n_resamples), strict=True)
            )
        return Evaluation(
            {metric: table[metric] for metric in METRICS if metric in table}, self.n_stories, self.n_pairs
        )

    def difference(self, ours: Floats, theirs: Floats) -> Estimate:
        """Paired group-bootstrap estimate of Spearman(ours) - Spearman(theirs), both `[N]`."""

        both = np.stack([ours[self.judged], theirs[self.judged]], axis=1)

        def statistic(w: Floats) -> Floats:
            rho = spearman(both, self.truth, w)
            return rho[:, :1] - rho[:, 1:]

        return group_bootstrap(statistic, self.groups)[0]

    def spearman(self, scores: Floats) -> Floats:
        """Spearman `[...]` of scores `[N, ...]` with the truth."""
        return spearman(scores[self.judged].reshape(len(self.judged), -1), self.truth).reshape(scores.shape[1:])


def choose_layer(spearman_by_layer: Mapping[int, Estimate], relative_gap: Mapping[int, float]) -> int:
    """The layer with the best validation Spearman; ties within one standard error go to the larger relative gap."""
    usable = {k: e for k, e in spearman_by_layer.items() if np.isfinite(e.value)}
    if not usable:
        return max(relative_gap, key=lambda k: relative_gap[k])
    best = max(usable.values(), key=lambda e: e.value)
    tied = [k for k, e in usable.items() if e.value >= best.value - np.nan_to_num(best.standard_error)]
    return max(tied, key=lambda k: relative_gap[k])


def random_band(chosen_on: Floats, judged_on: Floats) -> Floats:
    """Spearman `[R]` of random directions that were given our choices: layer and sign, made on other data.

    Both arguments are Spearman correlations `[L, R]`; the first decides, the second is read.
    """
    chosen_on, judged_on = np.nan_to_num(chosen_on), np.nan_to_num(judged_on)
    layer = np.abs(chosen_on).argmax(0)
    columns = np.arange(chosen_on.shape[1])
    return np.asarray(np.sign(chosen_on[layer, columns]) * judged_on[layer, columns])
