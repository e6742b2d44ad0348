"""Scores to numbers: rank metrics on raw scores.

Every metric takes scores `[N, C]`, one column per layer or scorer, and gives `[C]`, or `[R, C]` for the R resamples of
weights `[R, N]`; what cannot be computed is nan, never 0. All but Pearson's correlation use scores by rank alone: torchmetrics'
AUROC would squash values outside [0, 1] through a sigmoid.
"""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

Floats = NDArray[np.float64]


def _columns(scores: Floats) -> Floats:
    return scores[:, None] if scores.ndim == 1 else scores


def ranks(values: Floats, weights: Floats) -> Floats:
    """Average ranks `[R, N]` of values `[N]` in R samples, in which value i comes `weights[r, i]` times.

    One sort serves all resamples: a block of ties that comes b times and ends at count c has the rank c - (b - 1) / 2.
    """
    if np.isnan(values).any():
        return np.full(weights.shape, np.nan)
    order = np.argsort(values, kind="stable")
    ascending = values[order]
    first = np.flatnonzero(np.append(True, ascending[1:] != ascending[:-1]))
    block = np.add.reduceat(weights[:, order], first, axis=1)
    rank_of_block = block.cumsum(1) - (block - 1) / 2
    member = np.empty(len(values), dtype=np.intp)
    member[order] = np.repeat(np.arange(len(first)), np.diff(first, append=len(values)))
    return np.asarray(rank_of_block[:, member])


def _per_column(metric: Callable[[Floats, Floats], Floats], scores: Floats, weights: Floats | None) -> Floats:
    """Applies metric(column `[N]`, weights `[R, N]`) -> `[R]` to every column; `[C]` without weights, else `[R, C]`."""
    columns = _columns(scores)
    if not len(columns):
        return np.full((*(() if weights is None else (len(weights),)), columns.shape[1]), np.nan)
    used = np.ones((1, len(columns))) if weights is None else weights
    with np.errstate(invalid="ignore", divide="ignore"):
        values = np.stack([metric(column, used) for column in columns.T], axis=1)
    return values[0] if weights is None else values


def mean(values: Floats, weights: Floats | None = None) -> Floats:
    """Mean of what could be read: a nan is left out, and counts neither as 0 nor as right or wrong; nan where all are."""

    def of_readable(column: Floats, w: Floats) -> Floats:
        readable = np.isfinite(column)
        return np.asarray(w[:, readable] @ column[readable] / w[:, readable].sum(1))

    return _per_column(of_readable, values, weights)


def auroc(scores: Floats, positive: NDArray[np.bool_], weights: Floats | None = None) -> Floats:
    """Area under the ROC curve, ties counted half (Mann-Whitney U); nan without both classes."""

    def area(column: Floats, w: Floats) -> Floats:
        n_pos, n_neg = w[:, positive].sum(1), w[:, ~positive].sum(1)
        u = (w * ranks(column, w))[:, positive].sum(1) - n_pos * (n_pos + 1) / 2
        return np.asarray(u / (n_pos * n_neg))

    return _per_column(area, scores, weights)


def pair_accuracy(creative: Floats, uncreative: Floats, weights: Floats | None = None) -> Floats:
    """Share of pairs whose creative side scores higher, ties counted half."""
    won = np.sign(_columns(creative) - _columns(uncreative)) / 2 + 0.5
    return _per_column(lambda column, w: (w @ column) / w.sum(1), won, weights)


def spearman(scores: Floats, truth: Floats, weights: Floats | None = None) -> Floats:
    """Spearman rank correlation with ties; nan where a side is constant."""
    return _correlation(scores, truth, weights, ranks)


def pearson(scores: Floats, truth: Floats, weights: Floats | None = None) -> Floats:
    """Pearson correlation, for which alone scores are used by more than their rank; nan where a side is constant."""
    return _correlation(scores, truth, weights, lambda values, w: values[None])


def partial_spearman(scores: Floats, truth: Floats, held: Floats, weights: Floats | None = None) -> Floats:
    """Spearman of scores and truth with `held` `[N]` partialled out: what is left of it among texts alike in that."""
    rho, with_truth, with_scores = (
        spearman(scores, truth, weights),
        spearman(held, truth, weights),
        spearman(scores, held, weights),
    )
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray((rho - with_truth * with_scores) / np.sqrt((1 - with_truth**2) * (1 - with_scores**2)))


def spearman_within(scores: Floats, truth: Floats, groups: NDArray[np.intp], weights: Floats | None = None) -> Floats:
    """Mean of the groups' own Spearman correlations, each counted by its texts; those without any are left out.

    The weights are those of whole groups: within one they are equal, so that each group is ranked once.
    """
    used = np.ones((1, len(truth))) if weights is None else weights
    inside = [np.flatnonzero(groups == g) for g in np.unique(groups)]
    inside = [members for members in inside if len(members) > 2]
    if not inside:
        return np.full((*(() if weights is None else (len(weights),)), _columns(scores).shape[1]), np.nan)
    rho = np.stack([spearman(scores[members], truth[members]) for members in inside])  # [G, C]
    size = np.stack([used[:, members].sum(1) for members in inside], axis=1)  # [R, G]
    known = np.isfinite(rho).astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean_rho = np.asarray((size @ np.nan_to_num(rho)) / (size @ known))
    return mean_rho[0] if weights is None else mean_rho


def _correlation(
    scores: Floats, truth: Floats, weights: Floats | None, placed: Callable[[Floats, Floats], Floats]
) -> Floats:
    """Pearson correlation of what `placed(values, weights)` `[R, N]` makes of scores and truth."""

    def centred(values: Floats, w: Floats) -> Floats:
        r = placed(values, w)
        with np.errstate(invalid="ignore"):  # a resample may hold none of these rows
            return np.asarray(r - (w * r).sum(1, keepdims=True) / w.sum(1, keepdims=True))

    y = centred(truth, np.ones((1, len(truth))) if weights is None else weights) if len(truth) else truth

    def rho(column: Floats, w: Floats) -> Floats:
        x = centred(column, w)
        return np.asarray((w * x * y).sum(1) / np.sqrt((w * x**2).sum(1) * (w * y**2).sum(1)))

    return _per_column(rho, scores, weights)


def kendall_tau_b(scores: Floats, truth: Floats, weights: Floats | None = None) -> Floats:
    """Kendall's tau-b: concordant less discordant pairs of texts, corrected for ties on either side; O(N^2) memory."""
    y = _signs(truth)

    def tau(column: Floats, w: Floats) -> Floats:
        x = _signs(column)
        return np.asarray(_over_pairs(x * y, w) / np.sqrt(_over_pairs(x**2, w) * _over_pairs(y**2, w)))

    return _per_column(tau, scores, weights)


def order_accuracy(scores: Floats, truth: Floats, weights: Floats | None = None) -> Floats:
    """Share of pairs of unequally rated texts that the scores order as the ratings do; equal scores count half."""
    y = _signs(truth)

    def share(column: Floats, w: Floats) -> Floats:
        return np.asarray(_over_pairs((_signs(column) * y + 1) / 2 * y**2, w) / _over_pairs(y**2, w))

    return _per_column(share, scores, weights)


def _signs(values: Floats) -> Floats:
    return np.sign(values[:, None] - values[None])


def _over_pairs(of_pair: Floats, weights: Floats) -> Floats:
    """Sum `[R]` over pairs `[N, N]`, each as often as both its members were drawn."""
    return np.asarray(((weights @ of_pair) * weights).sum(1))


class RowScores(Metric):
    """Collects raw scores by row number across batches and processes; a repeated row counts once."""

    full_state_update = False
    rows: list[Tensor]
    scores: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.add_state("rows", [], dist_reduce_fx="cat")
        self.add_state("scores", [], dist_reduce_fx="cat")

    def update(self, rows: Tensor, scores: Tensor) -> None:
        """Adds scores `[B, C]` of rows `[B]`; call it with empty tensors on a process that has none."""
        self.rows.append(rows)
        self.scores.append(scores.double())

    def compute(self) -> tuple[NDArray[np.int64], Floats]:
        """Returns row numbers `[N]`, ascending, and their scores `[N, C]`."""
        rows, first = np.unique(dim_zero_cat(self.rows).cpu().numpy(), return_index=True)
        return rows, dim_zero_cat(self.scores).detach().cpu().numpy()[first]


def to_numpy(tensor: Tensor) -> Floats:
    """Detached float64 copy."""
    return np.asarray(tensor.detach().cpu().to(torch.float64).numpy())
