"""Metrics: equal to scikit-learn and scipy on raw scores, and intervals that are as wide as the groups demand."""

import numpy as np
import pytest
import scipy.stats
import torch
from sklearn.metrics import roc_auc_score

from probe.metrics import (
    Estimate,
    Floats,
    RowScores,
    auroc,
    group_bootstrap,
    kendall_tau_b,
    order_accuracy,
    pair_accuracy,
    spearman,
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


def test_pair_accuracy_counts_ties_half() -> None:
    creative = np.array([[3.0, -1.0], [2.0, -1.0], [1.0, -1.0], [0.0, -1.0]])
    uncreative = np.array([[1.0, 5.0], [2.0, 5.0], [2.0, 5.0], [0.0, 5.0]])
    assert pair_accuracy(creative, uncreative).tolist() == [(1 + 0.5 + 0 + 0.5) / 4, 0.0]


def test_swapping_the_sides_mirrors_pair_accuracy_and_auroc() -> None:
    scores, truth = tied_scores()
    np.testing.assert_allclose(auroc(scores, truth > 2), 1 - auroc(scores, truth <= 2))
    half = len(scores) // 2
    np.testing.assert_allclose(
        pair_accuracy(scores[:half], scores[half:]), 1 - pair_accuracy(scores[half:], scores[:half])
    )


def clustered(seed: int, n_groups: int = 30, per_group: int = 8) -> tuple[Floats, list[str]]:
    """Rows of mean 0 that share most of their variance with their group (intraclass correlation 0.8)."""
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(n_groups, 1)) + 0.5 * rng.normal(size=(n_groups, per_group))
    return rows.ravel(), [f"group-{g}" for g in range(n_groups) for _ in range(per_group)]


def mean(rows: Floats, weights: Floats) -> Floats:
    return (weights @ rows / weights.sum(1))[:, None]


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


def test_the_group_interval_covers_the_truth_and_a_row_wise_one_would_not() -> None:
    n_seeds, covered, covered_by_rows, widths = 200, 0, 0, []
    for seed in range(n_seeds):
        rows, groups = clustered(seed)
        by_group, by_row = (
            group_bootstrap(lambda w, x=rows: mean(x, w), names, n_resamples=300, seed=seed)[0]
            for names in (groups, [str(i) for i in range(len(rows))])
        )
        covered += by_group.lower <= 0 <= by_group.upper
        covered_by_rows += by_row.lower <= 0 <= by_row.upper
        widths.append((by_group.upper - by_group.lower) / (by_row.upper - by_row.lower))
    # A percentile interval of 30 groups covers like +-1.96 sqrt(29/30) on a t with 29 degrees of freedom: 0.936. Over
    # 200 seeds the standard error is 0.017, so 0.88 lies 3.2 of them below, and 0.985 2.8 above.
    assert 0.88 <= covered / n_seeds <= 0.985
    assert covered_by_rows / n_seeds < 0.75
    # Design effect 1 + (8 - 1) * 0.8 = 6.6, whose root is 2.6.
    assert np.mean(widths) == pytest.approx(6.6**0.5, rel=0.1)


def test_the_bootstrap_is_seeded_and_its_value_is_the_statistic_of_all_rows() -> None:
    rows, groups = clustered(0)
    first, again, other = (
        group_bootstrap(lambda w: np.hstack([mean(rows, w), mean(rows**2, w)]), groups, 50, seed) for seed in (1, 1, 2)
    )
    assert first == again != other
    assert [e.value for e in first] == pytest.approx([rows.mean(), (rows**2).mean()])
    assert all(e.lower <= e.value <= e.upper for e in first)
    assert (first[0].n, first[0].n_groups) == (240, 30)


def test_the_bootstrap_draws_whole_groups() -> None:
    sizes = (1, 2, 3, 5)
    groups = [f"g{size}" for size in sizes for _ in range(size)]

    def checked(weights: Floats) -> Floats:
        for drawn in weights:
            times = {name: {int(drawn[i]) for i, g in enumerate(groups) if g == name} for name in set(groups)}
            assert all(len(counts) == 1 for counts in times.values())
            assert sum(count for counts in times.values() for count in counts) == len(sizes)
        return np.zeros((len(weights), 1))

    group_bootstrap(checked, groups, n_resamples=100)


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


def test_the_standard_error_of_a_normal_interval_is_its_sigma() -> None:
    assert Estimate(0.5, 0.5 - 1.96 * 0.07, 0.5 + 1.96 * 0.07, 100, 30).standard_error == pytest.approx(0.07)


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
