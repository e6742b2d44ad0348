"""Metrics: equal to scikit-learn and scipy on raw scores; intervals and tests that are as careful as the groups demand."""

import warnings
from collections.abc import Callable
from itertools import combinations

import numpy as np
import pytest
import scipy.stats
import torch
from numpy.typing import NDArray
from scipy.stats import pearsonr, rankdata, spearmanr
from sklearn.metrics import roc_auc_score

from probe.metrics.bootstrap import (
    Estimate,
    expanded_percentiles,
    group_bootstrap,
    holm,
    mean_and_p,
    mean_over,
    paired_differences,
    within_folds,
)
from probe.metrics.evaluation import band_percentiles
from probe.metrics.ranks import (
    Floats,
    RowScores,
    auroc,
    kendall_tau_b,
    mean,
    order_accuracy,
    pair_accuracy,
    partial_spearman,
    pearson,
    spearman,
    spearman_within,
    to_numpy,
)

TRANSFORMS = {"raw": (1.0, 0.0), "offset": (1.0, 20.0), "scaled": (100.0, 0.0), "both": (100.0, 20.0)}


def tied_scores(n: int = 120, seed: int = 0) -> tuple[Floats, Floats]:
    """Scores `[N, 3]` and a truth `[N]` they follow loosely, both on a coarse grid and so full of ties."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 6, n).astype(float)
    return np.round(truth[:, None] * np.array([1.0, 0.2, -0.5]) + rng.normal(size=(n, 3))), truth


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_auroc_equals_sklearn_with_ties_wherever_the_scores_lie(transform: str) -> None:
    scores, truth = tied_scores()
    scale, offset = TRANSFORMS[transform]
    raw = scale * scores + offset
    expected = [roc_auc_score(truth > 2, column) for column in raw.T]
    np.testing.assert_allclose(auroc(raw, truth > 2), expected, atol=1e-12)


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_spearman_equals_scipy_with_ties_wherever_the_scores_lie(transform: str) -> None:
    scores, truth = tied_scores()
    scale, offset = TRANSFORMS[transform]
    raw = scale * scores + offset
    expected = [scipy.stats.spearmanr(column, truth).statistic for column in raw.T]
    np.testing.assert_allclose(spearman(raw, truth), expected, atol=1e-12)


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_kendalls_tau_b_equals_scipy_with_ties_also_over_rows_drawn_several_times(transform: str) -> None:
    scores, truth = tied_scores()
    scale, offset = TRANSFORMS[transform]
    times = np.random.default_rng(1).integers(0, 4, len(truth))
    for drawn in (np.ones_like(times), times):
        pairs = [(column.repeat(drawn), truth.repeat(drawn)) for column in (scale * scores + offset).T]
        expected = [scipy.stats.kendalltau(x, y, variant="b").statistic for x, y in pairs]
        found = kendall_tau_b(scale * scores + offset, truth, drawn[None].astype(float))[0]
        np.testing.assert_allclose(found, expected, atol=1e-12)


def test_order_accuracy_counts_unequal_ratings_and_halves_equal_scores() -> None:
    truth = np.array([1.0, 2.0, 2.0, 3.0])
    scores = np.array([[0.0, 1.0, 5.0, 1.0], [3.0, 2.0, 1.0, 0.0]]).T
    # Five pairs of unequal ratings: right, right, right, tied, wrong; and all wrong.
    np.testing.assert_allclose(order_accuracy(scores, truth), [3.5 / 5, 0.0])


def test_one_column_may_come_without_its_axis() -> None:
    scores, truth = tied_scores()
    assert spearman(scores[:, 0], truth) == spearman(scores, truth)[:1]
    assert auroc(scores[:, 0], truth > 2) == auroc(scores, truth > 2)[:1]


def test_a_constant_score_ranks_nothing() -> None:
    truth = np.arange(7.0)
    assert auroc(np.full((7, 2), 3.3), truth > 2).tolist() == [0.5, 0.5]
    assert np.isnan(spearman(np.full((7, 2), 3.3), truth)).all()
    assert np.isnan(spearman(truth, np.full(7, 3.3))).all()


def test_a_column_with_a_score_that_is_no_number_has_no_rank_metric() -> None:
    scores, truth = np.array([[1.0, 1.0], [2.0, np.nan], [3.0, 3.0], [4.0, 4.0]]), np.arange(4.0)
    for value in (auroc(scores, truth > 1), spearman(scores, truth), pair_accuracy(scores[:2], scores[2:])):
        assert np.isfinite(value[0])
        assert np.isnan(value[1])


@pytest.mark.parametrize("positive", [True, False])
def test_one_class_alone_has_no_auroc(positive: bool) -> None:
    assert np.isnan(auroc(np.arange(8.0).reshape(4, 2), np.full(4, positive))).all()


@pytest.mark.filterwarnings("error")
def test_no_rows_at_all_give_nan_and_no_warning() -> None:
    nothing = np.empty((0, 2))
    for value in (auroc(nothing, np.empty(0, bool)), pair_accuracy(nothing, nothing), spearman(nothing, np.empty(0))):
        assert value.shape == (2,)
        assert np.isnan(value).all()


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_pair_accuracy_counts_ties_half_wherever_the_scores_lie(transform: str) -> None:
    creative = np.array([[3.0, -1.0], [2.0, -1.0], [1.0, -1.0], [0.0, -1.0]])
    uncreative = np.array([[1.0, 5.0], [2.0, 5.0], [2.0, 5.0], [0.0, 5.0]])
    scale, offset = TRANSFORMS[transform]
    found = pair_accuracy(scale * creative + offset, scale * uncreative + offset)
    assert found.tolist() == [(1 + 0.5 + 0 + 0.5) / 4, 0.0]


def test_swapping_the_sides_mirrors_pair_accuracy_and_auroc() -> None:
    scores, truth = tied_scores()
    np.testing.assert_allclose(auroc(scores, truth > 2), 1 - auroc(scores, truth <= 2))
    half = len(scores) // 2
    np.testing.assert_allclose(
        pair_accuracy(scores[:half], scores[half:]), 1 - pair_accuracy(scores[half:], scores[:half])
    )


def clustered_normals(seed: int, n: int, n_groups: int, per_group: int) -> Floats:
    """Standard normals `[n, rows]` that share most of their variance with their group (intraclass correlation 0.8)."""
    rng = np.random.default_rng(seed)
    rows = 0.8**0.5 * rng.normal(size=(n, n_groups, 1)) + 0.2**0.5 * rng.normal(size=(n, n_groups, per_group))
    return rows.reshape(n, -1)


def clustered(seed: int, n_groups: int = 30, per_group: int = 8) -> tuple[Floats, list[str]]:
    """One column of such rows, and their groups."""
    names = [f"group-{g}" for g in range(n_groups) for _ in range(per_group)]
    return clustered_normals(seed, 1, n_groups, per_group)[0], names


def test_weights_are_how_often_a_row_was_drawn() -> None:
    # The oracle: draw the rows for real, and let scikit-learn and scipy judge the drawn rows.
    rng = np.random.default_rng(5)
    n = 60
    scores, truth = rng.integers(0, 12, (n, 2)).astype(float), rng.integers(0, 8, n).astype(float)
    other, positive = rng.integers(0, 12, (n, 2)).astype(float), truth > 3
    drawn = [rng.integers(n, size=n) for _ in range(20)]
    weights = np.stack([np.bincount(rows, minlength=n) for rows in drawn]).astype(float)
    for r, rows in enumerate(drawn):
        for c in range(2):
            x = scores[rows, c]
            assert spearman(scores, truth, weights)[r, c] == pytest.approx(
                scipy.stats.spearmanr(x, truth[rows])[0], abs=1e-12
            )
            assert auroc(scores, positive, weights)[r, c] == pytest.approx(roc_auc_score(positive[rows], x), abs=1e-12)
            won = (x > other[rows, c]).mean() + (x == other[rows, c]).mean() / 2
            assert pair_accuracy(scores, other, weights)[r, c] == pytest.approx(won, abs=1e-12)


TWENTY = [str(g) for g in range(20) for _ in range(5)]


def simulated(seed: int, rho: float) -> tuple[Floats, Floats, Floats]:
    """Truth, a score that correlates with it by rho, and a score of its own; rows of a group are alike."""
    truth, noise, other = clustered_normals(seed, 3, 20, 5)
    return truth, rho * truth + (1 - rho**2) ** 0.5 * noise, other


def true_auroc(rho: float) -> float:
    """Of a normal score for the sign of a normal truth: the trivariate orthant probability."""
    return float(0.5 + 2 / np.pi * np.arcsin(rho / 2**0.5))


def true_pair_accuracy(d: float) -> float:
    """Of a normal score against another that is lower by d."""
    return float(scipy.stats.norm.cdf(d / 2**0.5))


def holds(found: list[Estimate], expected: tuple[float, ...]) -> list[bool]:
    return [e.lower <= value <= e.upper for e, value in zip(found, expected, strict=True)]


@pytest.mark.simulation
def test_the_intervals_of_20_groups_of_correlated_rows_cover_the_truth_at_their_rate() -> None:
    rho, d = 0.5, 0.7
    expected = true_auroc(rho), 6 / np.pi * np.arcsin(rho / 2), true_pair_accuracy(d)
    by_group, by_row = [], []
    for seed in range(800):
        y, x, z = simulated(seed, rho)

        def three(w: Floats, x: Floats = x, y: Floats = y, z: Floats = z) -> Floats:
            return np.hstack([auroc(x, y > 0, w), spearman(x, y, w), pair_accuracy(y + d, z, w)])

        by_group.append(holds(group_bootstrap(three, TWENTY, n_resamples=300), expected))
        if seed < 100:
            by_row.append(holds(group_bootstrap(three, [str(i) for i in range(100)], n_resamples=300), expected))
    # Over 4000 sets: 0.955, 0.943 and 0.964.
    covered = np.mean(by_group, axis=0)
    assert ((covered > 0.925) & (covered < 0.975)).all(), covered
    assert (np.mean(by_row, axis=0) < 0.85).all()


@pytest.mark.simulation
def test_the_intervals_of_20_groups_cover_a_truth_near_the_ceiling_nearly_at_their_rate() -> None:
    rho, d = 0.9184, 1.7
    expected = true_auroc(rho), true_pair_accuracy(d)
    assert expected == pytest.approx((0.95, 0.885), abs=1e-3)
    by_group = []
    for seed in range(1600):
        y, x, z = simulated(seed, rho)

        def two(w: Floats, x: Floats = x, y: Floats = y, z: Floats = z) -> Floats:
            return np.hstack([auroc(x, y > 0, w), pair_accuracy(y + d, z, w)])

        by_group.append(holds(group_bootstrap(two, TWENTY, n_resamples=500), expected))
    # Over 4000 sets: 0.93 and 0.925, and without BCa's corrections 0.90 and 0.90.
    covered = np.mean(by_group, axis=0)
    assert ((covered > 0.91) & (covered < 0.975)).all(), covered


def test_the_interval_and_standard_error_of_a_mean_are_students() -> None:
    values = scipy.stats.norm.ppf((np.arange(20) + 0.5) / 20)
    estimate = group_bootstrap(lambda w: mean(values, w), [str(i) for i in range(20)], n_resamples=50_000)[0]
    # The plain percentiles would give 0.91 of this.
    expected = scipy.stats.t.interval(0.95, 19, scale=scipy.stats.sem(values))
    assert (estimate.lower, estimate.upper) == pytest.approx(expected, rel=0.02)
    assert estimate.standard_error == pytest.approx(scipy.stats.sem(values), rel=0.02)


def test_a_mean_is_that_of_what_could_be_read_which_alone_is_counted() -> None:
    values, groups = np.array([1.0, np.nan, 3.0, np.nan, 8.0]), ["a", "b", "c", "d", "c"]
    assert mean_over(values, groups) == mean_over(values[[0, 2, 4]], ["a", "c", "c"])
    assert (mean_over(values, groups).value, mean_over(values, groups).n, mean_over(values, groups).n_groups) == (
        4,
        3,
        2,
    )
    nothing = mean_over(values[[1, 3]], ["a", "b"])
    assert np.isnan(nothing.value)
    assert (nothing.n, nothing.n_groups) == (0, 0)
    drawn = np.array([[2.0, 9, 1, 9, 0], [0, 9, 0, 9, 0]])
    np.testing.assert_allclose(mean(values, drawn)[:, 0], [5 / 3, np.nan])


def test_a_mean_and_p_is_a_paired_difference_of_what_could_be_read() -> None:
    rng = np.random.default_rng(0)
    values, groups = rng.normal(0.3, 1, 40), [f"g{i}" for i in range(40)]
    values[::4] = np.nan
    kept = np.flatnonzero(np.isfinite(values))
    plain = paired_differences(lambda w: (w @ values[kept] / w.sum(1))[:, None], [groups[i] for i in kept])[0]
    assert mean_and_p(values, groups)[0].value == pytest.approx(plain[0].value)
    assert mean_and_p(values, groups)[1] == pytest.approx(plain[1])


@pytest.mark.filterwarnings("error")
def test_one_group_has_a_value_and_no_interval() -> None:
    estimate = group_bootstrap(lambda w: mean(np.arange(3.0), w), ["all"] * 3, 50)[0]
    assert estimate.value == 1
    assert np.isnan([estimate.lower, estimate.upper, estimate.standard_error]).all()


def test_the_bootstrap_is_seeded_and_its_value_is_the_statistic_of_all_rows() -> None:
    rows, groups = clustered(0)
    first, again, other = (
        group_bootstrap(lambda w: np.hstack([mean(rows, w), mean(rows**2, w)]), groups, 50, seed) for seed in (1, 1, 2)
    )
    assert first == again != other
    assert [e.value for e in first] == pytest.approx([rows.mean(), (rows**2).mean()])
    assert all(e.lower <= e.value <= e.upper for e in first)
    assert (first[0].n, first[0].n_groups) == (240, 30)


def test_the_bootstrap_draws_whole_groups_and_leaves_each_out_once() -> None:
    sizes = (1, 2, 3, 5)
    groups = [f"g{size}" for size in sizes for _ in range(size)]
    first = np.cumsum((0, *sizes[:-1]))
    calls = []

    def recorded(weights: Floats) -> Floats:
        np.testing.assert_array_equal(weights, weights[:, first].repeat(sizes, axis=1))
        calls.append(weights[:, first])
        return np.zeros((len(weights), 1))

    group_bootstrap(recorded, groups, n_resamples=100)
    once, drawn, left_out = calls
    assert once.tolist() == [[1] * 4]
    assert drawn.shape == (100, 4)
    assert (drawn.sum(1) == 4).all()
    np.testing.assert_array_equal(left_out, 1 - np.eye(4))


def test_the_interval_of_a_skewed_mean_is_scipys_bca_with_expanded_percentiles() -> None:
    values = np.random.default_rng(0).exponential(size=25)
    found = group_bootstrap(lambda w: mean(values, w), [str(i) for i in range(25)], n_resamples=50_000)[0]
    level = 1 - 2 * scipy.stats.norm.sf((25 / 24) ** 0.5 * scipy.stats.t.ppf(0.975, 24))
    expected = scipy.stats.bootstrap(
        (values,), np.mean, n_resamples=50_000, confidence_level=level, method="BCa", rng=np.random.default_rng(1)
    ).confidence_interval
    assert (found.lower, found.upper) == pytest.approx(tuple(expected), abs=0.02)
    assert found.upper - found.value > 1.2 * (found.value - found.lower)


@pytest.mark.filterwarnings("error")
def test_where_a_correction_is_unknown_the_interval_is_of_plain_expanded_percentiles() -> None:
    values = np.random.default_rng(0).exponential(size=25)

    def three(w: Floats) -> Floats:
        x = mean(values, w)
        is_all, leaves_out = (w == 1).all(1, keepdims=True), w.max(1, keepdims=True) == 1
        # Corrected; without a number where one group is left out; a value above all draws.
        return np.hstack([x, np.where(leaves_out & ~is_all, np.nan, x), np.where(is_all, 9.0, x)])

    corrected, *plain = group_bootstrap(three, [f"{i:02}" for i in range(25)])
    draws = np.random.default_rng(0).multinomial(25, np.full(25, 1 / 25), size=1000) @ values / 25
    expected = [float(end[0]) for end in expanded_percentiles(draws[:, None], 25)]
    for estimate in plain:
        assert [estimate.lower, estimate.upper] == pytest.approx(expected)
    assert corrected.upper > expected[1] + 0.02


def test_what_cannot_be_computed_has_neither_value_nor_interval() -> None:
    estimate, fine = group_bootstrap(
        lambda w: np.stack([w.sum(1) * np.nan, w.sum(1)], 1), [str(i % 25) for i in range(50)], 50
    )
    assert np.isnan([estimate.value, estimate.lower, estimate.upper]).all()
    assert str(estimate) == "-"
    assert np.isfinite([fine.value, fine.lower, fine.upper]).all()


def test_a_number_that_most_resamples_cannot_compute_has_no_interval() -> None:
    groups = [str(i) for i in range(25)]

    def needs(*rows: int) -> Estimate:
        """The estimate of a number that can be computed only where these rows were drawn."""
        return group_bootstrap(lambda w: np.where(w[:, rows].all(1, keepdims=True), 1.0, np.nan), groups, 100)[0]

    # A group is in a resample with chance 0.64, three given ones together with chance 0.26.
    assert needs(0, 1, 2).value == 1
    assert np.isnan([needs(0, 1, 2).lower, needs(0, 1, 2).upper]).all()
    assert needs(0).lower == needs(0).upper == 1


@pytest.mark.parametrize(("n_groups", "few"), [(19, True), (20, False)])
def test_fewer_than_twenty_groups_are_said_to_be_too_few(n_groups: int, few: bool) -> None:
    rows, groups = clustered(0, n_groups)
    estimate = group_bootstrap(lambda w: mean(rows, w), groups, 50)[0]
    assert estimate.too_few_groups is few
    assert ("too few groups" in str(estimate)) is few
    assert "nan" not in str(Estimate(0.5, np.nan, np.nan, 3, 1))


def test_the_p_of_a_mean_difference_is_that_of_a_t_test_over_groups() -> None:
    rows, groups = clustered(0)
    shifted = rows + np.array([[0.0], [0.3], [-0.5]])
    found = paired_differences(lambda w: np.hstack([mean(x, w) for x in shifted]), groups, 20_000)
    expected = scipy.stats.ttest_1samp(shifted.reshape(3, 30, 8).mean(2), 0, axis=1).pvalue
    np.testing.assert_allclose(
        scipy.stats.t.isf([p / 2 for _, p in found], 29), scipy.stats.t.isf(expected / 2, 29), 0.02
    )
    assert [e for e, _ in found] == group_bootstrap(lambda w: np.hstack([mean(x, w) for x in shifted]), groups, 20_000)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("n_groups", [19, 20])
def test_a_difference_has_a_p_only_where_groups_and_resamples_allow_one(n_groups: int) -> None:
    rows, groups = clustered(0, n_groups)

    def differences(w: Floats) -> Floats:
        x, same = mean(rows, w), np.ones((len(w), 1))
        return np.hstack([x, x - x, same, same * np.nan])

    some, identical, constant, none = (p for _, p in paired_differences(differences, groups, 50))
    assert np.isnan([constant, none]).all()
    if n_groups < 20:
        assert np.isnan([some, identical]).all()
    else:
        assert 0 < some < 1
        assert identical == 1


def test_holms_p_of_a_worked_example() -> None:
    # 0.01 x 4, 0.02 x 3, max(0.03 x 2, 0.06), 0.7 x 1; the one that is no number makes no fifth hypothesis.
    assert holm([0.03, float("nan"), 0.01, 0.7, 0.02]) == pytest.approx([0.06, np.nan, 0.04, 0.7, 0.06], nan_ok=True)
    assert holm([0.6, 0.5]) == [1.0, 1.0]
    assert holm([]) == []


@pytest.mark.parametrize("n", range(1, 6))
def test_holm_is_the_closed_test_whose_every_intersection_is_bonferronis(n: int) -> None:
    rng = np.random.default_rng(n)
    for _ in range(50):
        p = np.round(rng.random(n) ** 3, 2)  # some of them tied
        # A hypothesis falls when every intersection it is part of falls: its p is the largest of theirs.
        sets = [list(some) for size in range(1, n + 1) for some in combinations(range(n), size)]
        expected = [max(min(1, len(some) * p[some].min()) for some in sets if i in some) for i in range(n)]
        assert holm(p.tolist()) == pytest.approx(expected)


def by_fold(scores: Floats, truth: Floats, fold: NDArray[np.intp]) -> Callable[[Floats], Floats]:
    return within_folds(lambda rows, w: spearman(scores[rows], truth[rows], w), fold)


def test_within_folds_equals_a_loop_over_folds_and_with_one_fold_the_metric() -> None:
    scores, truth = tied_scores()
    fold = np.random.default_rng(1).integers(0, 4, len(truth))
    weights = np.random.default_rng(2).integers(0, 3, (5, len(truth))).astype(float)
    for r, w in enumerate(weights):
        expected = sum(
            w[fold == k].sum() * spearman(scores[fold == k], truth[fold == k], w[None, fold == k])[0] for k in range(4)
        )
        np.testing.assert_allclose(by_fold(scores, truth, fold)(weights)[r], expected / w.sum())
    alone = by_fold(scores, truth, np.zeros(len(truth), dtype=np.intp))
    np.testing.assert_allclose(alone(weights), spearman(scores, truth, weights))


@pytest.mark.parametrize(("n_groups", "n_folds"), [(11, 10), (3, 2), (4, 3), (6, 5), (12, 5)])
def test_an_interval_holds_its_own_estimate_however_few_groups_the_folds_leave(n_groups: int, n_folds: int) -> None:
    groups = np.repeat(np.arange(n_groups), 6)
    rng = np.random.default_rng(0)
    for _ in range(20):
        truth = rng.normal(size=len(groups))
        scores = truth + rng.normal(size=len(groups))
        metric = by_fold(scores, truth, groups % n_folds)
        (found,) = group_bootstrap(lambda w, m=metric: m(w).reshape(len(w), 1), groups.tolist(), 200, n_folds=n_folds)
        assert np.isnan(found.lower) or found.lower <= found.value <= found.upper


def test_the_offset_and_scale_of_each_folds_fit_change_nothing_within_folds() -> None:
    scores, truth = tied_scores()
    fold = np.arange(len(truth)) % 5
    moved = scores * 10.0 ** fold[:, None] - 300 * fold[:, None]
    once = np.ones((1, len(truth)))
    np.testing.assert_array_equal(by_fold(scores, truth, fold)(once), by_fold(moved, truth, fold)(once))
    assert (abs(spearman(moved, truth) - spearman(scores, truth)) > 0.05).all()


@pytest.mark.filterwarnings("error")
def test_a_fold_without_a_number_has_no_say() -> None:
    scores, truth = np.array([1.0, 2.0, 3.0, 5.0, 5.0, 5.0, 5.0]), np.arange(7.0)
    fold = np.array([0, 0, 0, 1, 1, 1, 1])
    all_rows, only_the_constant, none = by_fold(scores, truth, fold)(
        np.array([[1.0] * 7, [0.0] * 3 + [1.0] * 4, [0.0] * 7])
    )
    assert all_rows == [1.0]
    assert np.isnan([only_the_constant, none]).all()


def tournament(
    metric: Callable[[Floats, Floats, Floats], Floats], truth: Floats, scores: Floats, groups: list[str], n_folds: int
) -> Floats:
    """Whether rivals `[C - 1]` are told apart from the reference, column 0: 1 better, -1 worse, 0 not."""

    def to_reference(rows: NDArray[np.intp], w: Floats) -> Floats:
        values = metric(scores[rows], truth[rows], w)
        return values[:, 1:] - values[:, :1]

    fold = np.array([int(group) % n_folds for group in groups])
    found = paired_differences(within_folds(to_reference, fold), groups, n_resamples=200, n_folds=n_folds)
    significant = np.array(holm([p for _, p in found])) < 0.05
    return np.sign([e.value for e, _ in found]) * significant


@pytest.mark.simulation
@pytest.mark.parametrize(("n_groups", "n_folds"), [(40, 1), (40, 5), (20, 5)])
def test_pure_noise_seldom_wins_or_loses_a_tournament(n_groups: int, n_folds: int) -> None:
    groups = [str(g) for g in range(n_groups) for _ in range(6)]
    wrong = 0
    for seed in range(200):
        truth, *scores = clustered_normals(seed, 10, n_groups, 6)
        wrong += tournament(spearman, truth, np.stack(scores, axis=1), groups, n_folds).any()
    # At 5 % ten are expected; more than 18 come with chance 0.006.
    assert wrong <= 18


@pytest.mark.simulation
@pytest.mark.parametrize("n_folds", [1, 5])
def test_a_planted_signal_of_d_prime_1_wins_the_tournament(n_folds: int) -> None:
    creative = np.tile([True, False], 120)
    groups = [str(g) for g in range(40) for _ in range(6)]
    found = 0
    for seed in range(200):
        scores = clustered_normals(seed, 9, 40, 6).T
        scores[creative, 3] += 1
        found += tournament(auroc, creative, scores, groups, n_folds)[2] > 0
    assert found >= 0.8 * 200


@pytest.mark.parametrize("batch", [1, 3, 40])
def test_row_scores_give_every_row_once_in_order(batch: int) -> None:
    generator = torch.Generator().manual_seed(batch)
    scores = torch.randn(40, 2, generator=generator)
    collected = RowScores()
    shuffled = torch.randperm(40, generator=generator)
    for rows in [*shuffled.split(batch), torch.tensor([0, 7, 7])]:  # the last batch repeats rows, as padding does
        collected.update(rows, scores[rows])
    collected.update(torch.empty(0, dtype=torch.long), torch.empty(0, 2))
    rows, read = collected.compute()
    assert rows.tolist() == list(range(40))
    np.testing.assert_array_equal(read, to_numpy(scores))


def test_row_scores_of_a_process_without_rows_are_empty() -> None:
    collected = RowScores()
    collected.update(torch.empty(0, dtype=torch.long), torch.empty(0, 3))
    rows, scores = collected.compute()
    assert (len(rows), scores.shape) == (0, (0, 3))


def test_row_scores_of_two_processes_join_into_one_table() -> None:
    scores = torch.randn(9, 2, generator=torch.Generator().manual_seed(0))
    ours, theirs = RowScores(), RowScores()
    ours.update(torch.arange(0, 9, 2), scores[::2])
    theirs.update(torch.tensor([1, 3, 5, 7, 0]), scores[[1, 3, 5, 7, 0]])  # row 0 again: the padding of a short share
    for name, reduce in ours._reductions.items():  # what torchmetrics does between processes
        setattr(ours, name, [reduce(getattr(ours, name) + getattr(theirs, name))])
    rows, read = ours.compute()
    assert rows.tolist() == list(range(9))
    np.testing.assert_array_equal(read, to_numpy(scores))


def test_pearson_is_scipys_and_weights_are_repetitions() -> None:
    rng = np.random.default_rng(0)
    scores, truth, times = rng.normal(size=(40, 2)), rng.normal(size=40), rng.integers(0, 4, size=40)
    for c in range(2):
        assert pearson(scores, truth)[c] == pytest.approx(pearsonr(scores[:, c], truth)[0], abs=1e-12)
        repeated = pearsonr(np.repeat(scores[:, c], times), np.repeat(truth, times))[0]
        assert pearson(scores, truth, times[None].astype(float))[0, c] == pytest.approx(repeated, abs=1e-12)


def test_partial_spearman_is_the_correlation_of_what_ranks_of_length_leave_of_both() -> None:
    rng = np.random.default_rng(0)
    length = rng.normal(size=200)
    scores, truth = length + rng.normal(size=200), length + rng.normal(size=200)
    x, y, z = (rankdata(values) for values in (scores, truth, length))
    left = [values - np.polyval(np.polyfit(z, values, 1), z) for values in (x, y)]
    found = partial_spearman(scores, truth, length)
    assert found == pytest.approx(pearsonr(*left)[0], abs=1e-12)
    assert abs(found) < 0.15 < spearman(scores, truth)


def test_spearman_within_groups_sees_nothing_of_what_differs_between_them() -> None:
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(20), 10)
    between, inside = np.repeat(rng.normal(size=20) * 10, 10), rng.normal(size=200)
    assert spearman(between + inside, between - inside) > 0.9
    assert spearman_within(between + inside, between - inside, groups) == pytest.approx(-1)
    weights = np.repeat(rng.integers(0, 3, size=(2, 20)), 10, axis=1).astype(float)
    noisy = inside + rng.normal(size=200)
    own = np.array([spearmanr(noisy[groups == g], inside[groups == g])[0] for g in range(20)])
    expected = [np.average(own, weights=w[::10]) for w in weights]
    np.testing.assert_allclose(spearman_within(noisy, inside, groups, weights)[:, 0], expected, atol=1e-12)
    assert np.isnan(spearman_within(noisy, inside, np.arange(200)))


def test_draws_that_differ_from_the_estimate_in_the_last_digit_of_a_sum_equal_it() -> None:
    won = np.random.default_rng(0).integers(0, 2, 24).astype(np.float64)
    groups = [f"g{i}" for i in range(24)]

    def share(weights: Floats) -> Floats:
        return mean(won, weights)

    def share_summed_otherwise(weights: Floats) -> Floats:
        return share(weights) + 4e-16 * (len(weights) > 1)

    (one,), (other,) = (group_bootstrap(statistic, groups) for statistic in (share, share_summed_otherwise))
    assert (other.lower, other.upper) == pytest.approx((one.lower, one.upper), abs=1e-12)


def test_what_random_directions_reached_is_nan_where_none_has_a_number_and_says_nothing_else() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.isnan(band_percentiles(np.full(5, np.nan))).all()
    assert band_percentiles(np.array([np.nan, *range(101)])).tolist() == [5, 50, 95]
