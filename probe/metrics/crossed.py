"""Texts in which two things are crossed, so that a score can be told which of them it follows.

P groups (pairs, topics) of four texts each; a resample counts group p `times[r, p]` times.
"""

import numpy as np

from probe.metrics.ranks import Floats, mean


def variance_sources(cells: Floats, times: Floats) -> Floats:
    """Shares `[R, 5]` of the variance of scores `[P, 2, 2]` (group x first thing x second) by its source.

    The first thing, the second, both together (their interaction), the group, and the rest: how the things do not do the
    same in every group. An analysis of variance of the balanced 2 x 2 table, with each group as often as it was drawn.
    """
    n = times.sum(1)
    with np.errstate(invalid="ignore", divide="ignore"):  # a resample may hold none of these groups
        cell = np.einsum("rp,pit->rit", times, cells) / n[:, None, None]
        grand = cell.mean((1, 2))
        of_first = ((cell.mean(2) - grand[:, None]) ** 2).mean(1)
        of_second = ((cell.mean(1) - grand[:, None]) ** 2).mean(1)
        between = ((cell - grand[:, None, None]) ** 2).mean((1, 2))
        of_group = times @ cells.mean((1, 2)) ** 2 / n - grand**2
        total = (times @ (cells**2).mean((1, 2))) / n - grand**2
        sources = [of_first, of_second, between - of_first - of_second, of_group, total - between - of_group]
        return np.asarray(np.stack(sources, axis=1) / total[:, None])


def told_apart(cells: Floats, times: Floats) -> Floats:
    """Share `[R, C]` of pairs of texts, alike but for the first thing, of which the one that has it scores higher `[P, 2, 2, C]`.

    Equal scores count half.
    """
    return mean((np.sign(cells[:, 1] - cells[:, 0]) / 2 + 0.5).mean(1), times)


def variance_explained(scores: Floats, by: Floats, weights: Floats) -> Floats:
    """Share `[R, C]` of the variance of scores `[N, C]` that a straight line in `by` `[N]` explains."""
    n = weights.sum(1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        x = by - weights @ by[:, None] / n  # [R, N]
        of_x = (weights * x**2).sum(1, keepdims=True)
        of_scores = weights @ scores**2 - (weights @ scores) ** 2 / n
        return np.asarray(((weights * x) @ scores) ** 2 / (of_x * of_scores))
