"""What a split's scores are worth: every metric with its interval, beside length, bag of words and random directions."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from probe.bootstrap import Estimate, group_bootstrap
from probe.data import Row
from probe.metrics import Floats, auroc, kendall_tau_b, order_accuracy, pair_accuracy, spearman
from probe.people import People, against_people, rating_matrix

METRICS = (
    "spearman",
    "spearman_low",
    "spearman_high",
    "kendall_tau_b",
    "order_accuracy",
    "auroc",
    "pair_accuracy",
    "preference_accuracy",
    "length",
)
"""`spearman_low` and `_high`: within the stories below and above the middle of the ratings, where a strong switch
cannot help. `order_accuracy`: share of pairs of unequally rated stories in the right order. `preference_accuracy`: share of
people's preferences that the score shares; their ties are left out. `length`: rank correlation of score and token count."""
MOST_PAIRED = 2000
"""Above so many stories the two metrics over all pairs of stories are not computed: they need the square of it."""


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
        stories = [i for i, row in enumerate(rows) if row.pair < 0 and row.comparison < 0]
        paired = [i for i, row in enumerate(rows) if row.pair >= 0]
        self.judged = np.array(stories or paired, dtype=np.intp)
        self.n_stories, self.n_pairs = len(stories), len(paired) // 2
        self.truth = np.array([rows[i].truth for i in self.judged])
        self.groups = [rows[i].group for i in self.judged]
        self.creative, self.uncreative = (np.array(paired[side::2], dtype=np.intp) for side in (0, 1))
        self.pair_groups = [rows[i].group for i in self.creative]
        self.winner = np.array(
            [i for i, row in enumerate(rows) if row.comparison >= 0 and row.truth == 1], dtype=np.intp
        )
        self.loser = np.array(
            [i for i, row in enumerate(rows) if row.comparison >= 0 and row.truth == 0], dtype=np.intp
        )
        self.preference_groups = [rows[i].group for i in self.winner]
        self.ratings = rating_matrix([rows[i].raters for i in self.judged])
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

        def on_story_pairs(w: Floats) -> Floats:
            return np.hstack([kendall_tau_b(judged, self.truth, w), order_accuracy(judged, self.truth, w)])

        def on_pairs(w: Floats) -> Floats:
            return pair_accuracy(scores[self.creative], scores[self.uncreative], w)

        def on_preferences(w: Floats) -> Floats:
            return pair_accuracy(scores[self.winner], scores[self.loser], w)

        table: dict[str, dict[str, Estimate]] = {}

        def estimate(metrics: Sequence[str], statistic: Callable[[Floats], Floats], groups: Sequence[str]) -> None:
            found = iter(group_bootstrap(statistic, groups, n_resamples))
            table.update({metric: {name: next(found) for name in names} for metric in metrics})

        estimate(("spearman", "spearman_low", "spearman_high", "auroc", "length"), on_stories, self.groups)
        if 0 < self.n_stories <= MOST_PAIRED:
            estimate(("kendall_tau_b", "order_accuracy"), on_story_pairs, self.groups)
        if self.n_pairs:
            estimate(("pair_accuracy",), on_pairs, self.pair_groups)
        if len(self.winner):
            estimate(("preference_accuracy",), on_preferences, self.preference_groups)
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

    def spearman_of(self, columns: Mapping[int, Floats]) -> dict[int, Estimate]:
        """Spearman alone, with its interval, of score columns `[N]` by layer: all that the choice of a layer needs."""
        judged = np.stack([scores[self.judged] for scores in columns.values()], axis=1)
        found = group_bootstrap(lambda w: spearman(judged, self.truth, w), self.groups)
        return dict(zip(columns, found, strict=True))

    def people(self, scores: Floats) -> People | None:
        """Scores `[N]` against people, and people against one another; None where at most one rated."""
        return against_people(scores[self.judged], self.ratings, self.groups)

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
