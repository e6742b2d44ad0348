"""Metric: what scores are judged by. One list; evaluations, sheets, tables, figures and reports go through it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from probe.data.reading import Row, crossed, pairs
from probe.metrics.crossed import told_apart, variance_explained, variance_sources
from probe.metrics.ranks import (
    Floats,
    auroc,
    kendall_tau_b,
    order_accuracy,
    pair_accuracy,
    partial_spearman,
    pearson,
    spearman,
    spearman_within,
)

Over = Literal["texts", "judged", "rated", "ratings", "pairs", "preferences", "crossed"]
"""What a metric goes over: texts; those with a truth (rated stories where there are some, else the sides of pairs); rated
stories; these, each against each; contrastive pairs; people's preferences, without ties; the topics of a crossed set,
four texts each."""
MOST_PAIRED = 2000
"""Above so many stories the metrics over each against each are not computed: they need the square of it."""


@dataclass(frozen=True)
class Scored:
    """What a metric sees, N texts or pairs."""

    scores: Floats
    """`[N, C]`; of a pair, by how much the side that should score higher does."""
    truth: Floats
    """`[N]`; of a pair, 1."""
    lengths: Floats
    """`[N]` token counts; of a pair, of its first row."""
    middle: float
    """Of the ratings, lowest to highest."""
    rows: NDArray[np.intp]
    """`[N]` which rows these are; of a pair, its first."""
    groups: NDArray[np.intp]
    """`[N]` the number of its group."""

    def __getitem__(self, kept: NDArray[np.intp] | NDArray[np.bool_]) -> "Scored":
        return Scored(
            self.scores[kept], self.truth[kept], self.lengths[kept], self.middle, self.rows[kept], self.groups[kept]
        )


@dataclass(frozen=True)
class Metric:
    """A number that says what scores are worth."""

    name: str
    """In files, and in TensorBoard's tags."""
    label: str
    """For people."""
    chance: float
    """What a score that knows nothing reaches."""
    of: Callable[[Scored, Floats], Floats]
    """The metric `[R, C]` in R resamples, in which the i-th text or pair comes `weights[r, i]` times; all by rank
    alone, but for Pearson's."""
    over: Over = "judged"


def _spearman(texts: Scored, weights: Floats) -> Floats:
    return spearman(texts.scores, texts.truth, weights)


def _auroc(texts: Scored, weights: Floats) -> Floats:
    unequal = texts.truth != texts.middle
    return auroc(texts.scores[unequal], texts.truth[unequal] > texts.middle, weights[:, unequal])


def _won(pairs: Scored, weights: Floats) -> Floats:
    return pair_accuracy(pairs.scores, np.zeros_like(pairs.scores), weights)


def _cells(texts: Scored, weights: Floats) -> tuple[Floats, Floats]:
    """Scores `[P, 2, 2, C]` (topic x idea x style) of a crossed set, and how often `[R, P]` each topic comes."""
    return texts.scores.reshape(-1, 2, 2, texts.scores.shape[1]), weights[:, ::4]


def _ideas_told_apart(texts: Scored, weights: Floats) -> Floats:
    return told_apart(*_cells(texts, weights))


def _styles_told_apart(texts: Scored, weights: Floats) -> Floats:
    cells, times = _cells(texts, weights)
    return told_apart(cells.swapaxes(1, 2), times)


def _variance_share(source: int, texts: Scored, weights: Floats) -> Floats:
    cells, times = _cells(texts, weights)
    return np.stack([variance_sources(cells[..., c], times)[:, source] for c in range(cells.shape[-1])], axis=1)


METRICS = [
    Metric("spearman", "Spearman(score, truth)", 0, _spearman),
    # Within a half a strong switch cannot help.
    Metric(
        "spearman_low",
        "Spearman, lower half of the truth",
        0,
        lambda texts, w: _spearman(texts[low := texts.truth < texts.middle], w[:, low]),
    ),
    Metric(
        "spearman_high",
        "Spearman, upper half of the truth",
        0,
        lambda texts, w: _spearman(texts[high := texts.truth > texts.middle], w[:, high]),
    ),
    Metric(
        "kendall_tau_b",
        "Kendall's tau-b with the truth",
        0,
        lambda texts, w: kendall_tau_b(texts.scores, texts.truth, w),
        "ratings",
    ),
    Metric(
        "order_accuracy",
        "pairs of stories in the right order",
        0.5,
        lambda texts, w: order_accuracy(texts.scores, texts.truth, w),
        "ratings",
    ),
    Metric("pearson", "Pearson(score, rating)", 0, lambda texts, w: pearson(texts.scores, texts.truth, w), "rated"),
    Metric(
        "spearman_within_groups",
        "Spearman within groups",
        0,
        lambda texts, w: spearman_within(texts.scores, texts.truth, texts.groups, w),
        "rated",
    ),
    Metric(
        "spearman_beyond_length",
        "Spearman, length partialled out",
        0,
        lambda texts, w: partial_spearman(texts.scores, texts.truth, texts.lengths, w),
        "rated",
    ),
    Metric("auroc", "AUROC, upper v. lower half", 0.5, _auroc),
    Metric("pair_accuracy", "pair accuracy", 0.5, _won, "pairs"),
    Metric("preference_accuracy", "people's preferences shared", 0.5, _won, "preferences"),
    Metric("idea_accuracy", "ideas told apart in one style", 0.5, _ideas_told_apart, "crossed"),
    Metric("style_accuracy", "styles told apart in one idea", 0.5, _styles_told_apart, "crossed"),
    Metric("idea_share", "share of variance: idea", 0, partial(_variance_share, 0), "crossed"),
    Metric("style_share", "share of variance: style", 0, partial(_variance_share, 1), "crossed"),
    Metric("topic_share", "share of variance: topic", 0.25, partial(_variance_share, 3), "crossed"),
    Metric(
        "length_share",
        "share of variance: length",
        0,
        lambda texts, w: variance_explained(texts.scores, texts.lengths, w),
        "crossed",
    ),
    Metric(
        "length",
        "Spearman(score, length)",
        0,
        lambda texts, w: spearman(texts.scores, texts.lengths, w),
        "texts",
    ),
]


def metric_named(name: str) -> Metric:
    """The metric of that name."""
    return next(metric for metric in METRICS if metric.name == name)


def scored_over(
    rows: Sequence[Row], scores: Floats, lengths: Floats, margins: Floats | None = None
) -> dict[Over, Scored]:
    """What these rows have for metrics to go over.

    Args:
        rows: N rows.
        scores: `[N, C]`.
        lengths: `[N]` token counts.
        margins: `[P, C]` by how much the first of each of `pairs(rows)` leads; by default the difference of the scores.
    """
    truth = np.array([row.truth for row in rows])
    stories = np.array([i for i, row in enumerate(rows) if row.is_story], dtype=np.intp)
    sides = np.array([i for i, row in enumerate(rows) if row.side], dtype=np.intp)
    judged = stories if len(stories) else sides
    middle = float(truth[judged].min() + truth[judged].max()) / 2 if len(judged) else np.nan

    groups = np.unique([row.group for row in rows], return_inverse=True)[1].astype(np.intp)

    def texts(chosen: NDArray[np.intp]) -> Scored:
        return Scored(scores[chosen], truth[chosen], lengths[chosen], middle, chosen, groups[chosen])

    by_kind: dict[Over, Scored] = {"texts": texts(judged if len(judged) else np.arange(len(rows)))}
    if len(judged):
        by_kind["judged"] = texts(judged)
    if len(stories):
        by_kind["rated"] = texts(stories)
    if 0 < len(stories) <= MOST_PAIRED:
        by_kind["ratings"] = texts(stories)
    if len(quartets := crossed(rows)):
        by_kind["crossed"] = texts(quartets.ravel())
    first, second = pairs(rows).T
    lead = scores[first] - scores[second] if margins is None else margins
    won = np.sign(truth[first] - truth[second])
    of_sides = np.array([rows[i].side is not None for i in first], dtype=bool)
    kinds: dict[Over, NDArray[np.bool_]] = {"pairs": of_sides, "preferences": ~of_sides}
    for over, kind in kinds.items():
        if kind.any():
            kept = kind & (won != 0)
            signed = lead[kept] * won[kept, None]
            by_kind[over] = Scored(
                signed, np.ones(len(signed)), lengths[first[kept]], np.nan, first[kept], groups[first[kept]]
            )
    return by_kind
