"""Scores to numbers: rank metrics on raw scores, and what they are worth (group bootstrap).

Every metric takes scores `[N, C]`, one column per layer or scorer, and gives `[C]`; what cannot be computed is nan,
never 0. Scores are used by rank alone: torchmetrics' AUROC would squash values outside [0, 1] through a sigmoid.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import rankdata
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

Floats = NDArray[np.float64]

FEW_GROUPS = 20
"""Below this many groups a bootstrap interval is too narrow and no p-value is given."""


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
        """Half the interval over 1.96."""
        return (self.upper - self.lower) / (2 * 1.96)

    def __str__(self) -> str:
        if np.isnan(self.value):
            return "-"
        return f"{self.value:.2f} [{self.lower:.2f}, {self.upper:.2f}]" + (
            " too few groups" if self.too_few_groups else ""
        )


def _columns(scores: Floats) -> Floats:
    return scores[:, None] if scores.ndim == 1 else scores


def auroc(scores: Floats, positive: NDArray[np.bool_]) -> Floats:
    """Area under the ROC curve `[C]`, ties counted half (Mann-Whitney U)."""
    n_pos = int(positive.sum())
    n_neg = len(positive) - n_pos
    columns = _columns(scores)
    if not n_pos or not n_neg:
        return np.full(columns.shape[1], np.nan)
    u = rankdata(columns, axis=0)[positive].sum(0) - n_pos * (n_pos + 1) / 2
    return np.asarray(u / (n_pos * n_neg))


def pair_accuracy(creative: Floats, uncreative: Floats) -> Floats:
    """Share of pairs `[C]` whose creative side scores higher, ties counted half."""
    difference = _columns(creative) - _columns(uncreative)
    if not len(difference):
        return np.full(difference.shape[1], np.nan)
    return np.asarray((np.sign(difference) / 2 + 0.5).mean(0))


def spearman(scores: Floats, truth: Floats) -> Floats:
    """Spearman rank correlation `[C]` with ties; nan where a side is constant."""
    x, y = rankdata(_columns(scores), axis=0), rankdata(truth)
    x, y = x - x.mean(0), y - y.mean()
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray((y @ x) / np.sqrt((x**2).sum(0) * (y**2).sum()))


def group_bootstrap(
    statistic: Callable[[NDArray[np.intp]], Floats], groups: Sequence[str], n_resamples: int = 1000, seed: int = 0
) -> list[Estimate]:
    """Percentile intervals of a statistic `[C]` of row indices, resampling whole groups with replacement."""
    names, member = np.unique(np.asarray(groups), return_inverse=True)
    rows_of = [np.flatnonzero(member == g) for g in range(len(names))]
    rng = np.random.default_rng(seed)
    value = statistic(np.arange(len(groups)))
    draws = np.stack(
        [
            statistic(np.concatenate([rows_of[g] for g in rng.integers(len(names), size=len(names))]))
            for _ in range(n_resamples)
        ]
    )
    usable = np.isfinite(draws).sum(0) > n_resamples / 2
    lower, upper = np.full_like(value, np.nan), np.full_like(value, np.nan)
    if usable.any():
        lower[usable], upper[usable] = np.nanpercentile(draws[:, usable], [2.5, 97.5], axis=0)
    n = len(groups)
    return [
        Estimate(float(v), float(lo), float(hi), n, len(names)) for v, lo, hi in zip(value, lower, upper, strict=True)
    ]


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
