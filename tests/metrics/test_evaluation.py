"""Evaluation: layer and sign are chosen on one set and read on another; each number is its metric function's."""

import numpy as np
import pytest
from numpy.typing import NDArray

from probe.data.reading import Row, pair_rows, preference_rows
from probe.data.rows import Preference, TextPair
from probe.metrics.bootstrap import Estimate, group_bootstrap
from probe.metrics.evaluation import EvaluationSet, nearest_to, random_band, tied_layers
from probe.metrics.metric import METRICS
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


def estimate(value: float, standard_error: float = 0.0) -> Estimate:
    half = 2.045 * standard_error  # Student's 97.5 % quantile for 30 groups
    return Estimate(value, value - half, value + half, 100, 30)


def story_rows(n_groups: int = 30, per_group: int = 6, seed: int = 0) -> list[Row]:
    rng = np.random.default_rng(seed)
    groups = [f"story-{g}" for g in range(n_groups) for _ in range(per_group)]
    return [Row("Write a story.", "text", group, float(rng.uniform(1, 5))) for group in groups]


def pairs_of(n_groups: int = 25, per_group: int = 2) -> list[Row]:
    return pair_rows([TextPair("a", "b", f"pair-{i // per_group}") for i in range(n_groups * per_group)])


def truth_of(rows: list[Row]) -> Floats:
    return np.array([row.truth for row in rows])


def groups_of(rows: list[Row]) -> NDArray[np.intp]:
    return np.unique([row.group for row in rows], return_inverse=True)[1]


def noisy(rows: list[Row], noise: float, seed: int) -> Floats:
    return truth_of(rows) + noise * np.random.default_rng(seed).normal(size=len(rows))


def test_the_best_layer_on_validation_stands_alone_where_no_other_is_near() -> None:
    assert tied_layers({0: estimate(0.2, 0.01), 1: estimate(0.9, 0.01), 2: estimate(0.5, 0.01)}) == [1]


def test_layers_within_one_standard_error_of_the_best_are_tied() -> None:
    # 5 is more than one standard error of the best below it, however wide its own interval.
    by_layer = {3: estimate(0.80, 0.05), 4: estimate(0.76, 0.001), 5: estimate(0.74, 0.3), 6: estimate(0.77, 0.2)}
    assert tied_layers(by_layer) == [3, 4, 6]


def test_a_layer_without_a_number_is_never_tied_with_one_that_has_one() -> None:
    assert tied_layers({0: estimate(float("nan")), 1: estimate(-0.3, 0.01), 2: estimate(-0.5, 0.01)}) == [1]
    assert tied_layers({k: estimate(float("nan")) for k in range(3)}) == [0, 1, 2]


def test_tied_layers_are_taken_from_the_middle_of_the_model_outwards() -> None:
    assert nearest_to(14.5, range(30))[:4] == [14, 15, 13, 16]
    assert nearest_to(14.5, [0, 9, 29]) == [9, 0, 29]


def test_random_directions_get_layer_and_sign_from_the_choosing_data_only() -> None:
    chosen_on = np.array([[0.1, 0.6, -0.2, 0.3], [-0.5, 0.2, -0.4, np.nan]])
    judged_on = np.array([[0.9, -0.1, 0.8, 0.2], [-0.3, 0.7, 0.4, 0.9]])
    # Direction 0 takes layer 1 and turns around; 1 takes layer 0 and pays for it; 2 takes layer 1 with the wrong sign;
    # 3 has no number on layer 1. Choosing on the judged data would give 0.9, 0.7, 0.8 and 0.9.
    np.testing.assert_allclose(random_band(chosen_on, judged_on), [0.3, -0.1, -0.4, 0.2])


def test_a_random_band_of_noise_is_centred_on_nothing() -> None:
    rng = np.random.default_rng(0)
    chosen_on, judged_on = rng.normal(size=(2, 6, 2000)) * 0.3
    honest, peeking = random_band(chosen_on, judged_on), random_band(judged_on, judged_on)
    assert abs(honest.mean()) < 4 * 0.3 / 2000**0.5
    assert peeking.mean() > 0.3


def test_every_number_over_stories_is_its_metric_function() -> None:
    stories, pairs = story_rows(), pairs_of()
    rows = pairs + stories
    x = {"good": noisy(rows, 0.5, 1), "bad": noisy(rows, 9.0, 2)}
    lengths = np.random.default_rng(3).integers(50, 200, len(rows)).astype(float)
    table = EvaluationSet(rows).evaluate(x, lengths, n_resamples=20)
    truth, tokens = truth_of(stories), lengths[len(pairs) :]
    middle = (truth.min() + truth.max()) / 2
    low, high = truth < middle, truth > middle
    measured = [metric.name for metric in METRICS if metric.over not in ("preferences", "crossed")]
    assert list(table.estimates) == measured
    assert (table.n_stories, table.n_pairs) == (len(stories), len(pairs) // 2)
    for name, column in x.items():
        s, p = column[len(pairs) :], column[: len(pairs)]
        expected = {
            "spearman": spearman(s, truth),
            "spearman_low": spearman(s[low], truth[low]),
            "spearman_high": spearman(s[high], truth[high]),
            "kendall_tau_b": kendall_tau_b(s, truth),
            "order_accuracy": order_accuracy(s, truth),
            "pearson": pearson(s, truth),
            "spearman_within_groups": spearman_within(s, truth, groups_of(stories)),
            "spearman_beyond_length": partial_spearman(s, truth, tokens),
            "auroc": auroc(s, high),
            "pair_accuracy": pair_accuracy(p[::2], p[1::2]),
            "length": spearman(s, tokens),
        }
        assert {metric: table.estimates[metric][name].value for metric in measured} == pytest.approx(
            {metric: float(value[0]) for metric, value in expected.items()}
        )
        groups = {metric: table.estimates[metric][name].n_groups for metric in measured}
        assert groups == {metric: 25 if metric == "pair_accuracy" else 30 for metric in measured}


def test_preferences_are_judged_apart_from_stories_and_their_ties_are_left_out() -> None:
    preferences = [Preference("x", "y", won, f"p{i}") for i, won in enumerate(("a", "b", "tie") * 10)]  # type: ignore[arg-type]
    rows = story_rows() + preference_rows(preferences)
    judge = EvaluationSet(rows)
    scores = np.arange(len(rows), dtype=float)  # the second text of a comparison always scores higher
    found = judge.evaluate({"s": scores}, scores, n_resamples=50).estimates["preference_accuracy"]["s"]
    assert (found.value, found.n, found.n_groups) == (0.5, 20, 20)
    assert judge.n_stories == len(story_rows())
    wins = np.array([row.truth for row in rows])
    assert judge.evaluate({"s": wins}, scores, n_resamples=50).estimates["preference_accuracy"]["s"].value == 1


def test_metrics_over_all_pairs_of_stories_are_left_out_where_they_would_need_gigabytes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("probe.metrics.metric.MOST_PAIRED", 10)
    rows = story_rows()
    scores = np.arange(len(rows), dtype=float)
    assert "kendall_tau_b" not in EvaluationSet(rows).evaluate({"s": scores}, scores, n_resamples=5).estimates


def test_every_interval_over_stories_is_that_of_rows_drawn_for_real() -> None:
    rows = [Row("p", "t", f"edge-{rating}", rating) for rating in (1.0, 3.0, 5.0)] + story_rows()
    truth, x, lengths = truth_of(rows), noisy(rows, 2.0, 0), noisy(rows, 5.0, 1)
    groups = groups_of(rows)
    table = EvaluationSet(rows).evaluate({"x": x}, lengths, n_resamples=40).estimates

    def metrics_of(drawn: Floats) -> Floats:
        s, y = x[drawn], truth[drawn]
        low, high = y < 3, y > 3
        halves = (spearman(s[low], y[low]), spearman(s[high], y[high]))
        area, over_pairs = auroc(s[y != 3], high[y != 3]), (kendall_tau_b(s, y), order_accuracy(s, y))
        rated = pearson(s, y), spearman_within(s, y, groups[drawn]), partial_spearman(s, y, lengths[drawn])
        return np.concatenate([spearman(s, y), *halves, *over_pairs, *rated, area, spearman(s, lengths[drawn])])

    def statistic(weights: Floats) -> Floats:
        return np.stack([metrics_of(np.repeat(np.arange(len(rows)), w.astype(int))) for w in weights])

    expected = group_bootstrap(statistic, [row.group for row in rows], n_resamples=40)
    for metric, estimate in zip(
        [m.name for m in METRICS if m.over not in ("pairs", "preferences", "crossed")], expected, strict=True
    ):
        found = table[metric]["x"]
        assert (found.lower, found.upper) == pytest.approx((estimate.lower, estimate.upper)), metric


def test_a_switch_that_only_tells_the_halves_apart_is_unmasked_within_them() -> None:
    rows = story_rows(40, 10)
    truth = truth_of(rows)
    switch = (truth > 3) + 0.01 * np.random.default_rng(0).normal(size=len(rows))
    values = EvaluationSet(rows).evaluate({"switch": switch}, np.ones(len(rows)), n_resamples=5).estimates
    assert values["spearman"]["switch"].value > 0.7  # two halves in the right order and no order within: 0.75
    # About 200 stories in each half: a correlation of nothing has standard error 0.07.
    assert max(abs(values[half]["switch"].value) for half in ("spearman_low", "spearman_high")) < 4 * 0.07


def test_a_story_in_the_very_middle_is_in_neither_half() -> None:
    rows = [Row("p", "t", f"g{i}", rating) for i, rating in enumerate([1.0, 2.0, 3.0, 4.0, 5.0])]
    scores = np.array([1.0, 2.0, 99.0, 4.0, 5.0])
    values = EvaluationSet(rows).evaluate({"s": scores}, np.ones(5), n_resamples=5).estimates
    assert values["auroc"]["s"].value == values["spearman_low"]["s"].value == values["spearman_high"]["s"].value == 1


@pytest.mark.filterwarnings("error")
def test_without_stories_the_classes_of_the_pairs_are_the_truth() -> None:
    rows = pairs_of()
    x, lengths = noisy(rows, 1.0, 0), np.random.default_rng(1).normal(size=len(rows))
    result = EvaluationSet(rows).evaluate({"x": x}, lengths, n_resamples=20)
    value = {metric: columns["x"].value for metric, columns in result.estimates.items()}
    assert value["auroc"] == pytest.approx(float(auroc(x, truth_of(rows) == 1)[0]))
    assert value["spearman"] == pytest.approx(float(spearman(x, truth_of(rows))[0]))
    assert value["pair_accuracy"] == pytest.approx(float(pair_accuracy(x[::2], x[1::2])[0]))
    assert np.isnan([value["spearman_low"], value["spearman_high"]]).all()
    assert (result.n_stories, result.n_pairs) == (0, 50)


def test_stories_alone_have_no_pair_accuracy() -> None:
    rows = story_rows()
    result = EvaluationSet(rows).evaluate({"x": truth_of(rows)}, np.ones(len(rows)), n_resamples=5)
    assert "pair_accuracy" not in result.estimates
    assert np.isnan(result.estimates["length"]["x"].value)


def test_a_score_that_is_the_length_is_so_in_every_resample() -> None:
    rows = pairs_of() + story_rows()
    lengths = np.random.default_rng(0).permutation(len(rows)).astype(float)
    length = EvaluationSet(rows).evaluate({"x": lengths}, lengths, n_resamples=20).estimates["length"]["x"]
    assert (length.value, length.lower, length.upper) == pytest.approx((1, 1, 1))


def test_records_are_flat_and_complete() -> None:
    rows = pairs_of() + story_rows()
    columns = {"a": noisy(rows, 1, 0), "b": noisy(rows, 1, 1)}
    records = EvaluationSet(rows).evaluate(columns, np.arange(len(rows)), n_resamples=5).as_records()
    assert {(r["metric"], r["column"]) for r in records} == {
        (m.name, c) for m in METRICS if m.over not in ("preferences", "crossed") for c in columns
    }
    assert all(set(r) == {"metric", "column", "value", "lower", "upper", "n", "n_groups"} for r in records)


def test_spearman_of_many_columns_keeps_their_shape() -> None:
    rows = pairs_of(3) + story_rows()
    scores = np.random.default_rng(0).normal(size=(len(rows), 4, 5))
    stories = scores[-30 * 6 :]
    found = EvaluationSet(rows).spearman(scores)
    assert found.shape == (4, 5)
    assert found[2, 3] == pytest.approx(float(spearman(stories[:, 2, 3], truth_of(rows[-30 * 6 :]))[0]))


def test_the_paired_difference_tells_truth_from_noise() -> None:
    rows = pairs_of(5) + story_rows()
    split, noise = EvaluationSet(rows), np.random.default_rng(0).normal(size=len(rows))
    assert split.difference(truth_of(rows), noise).lower > 0.5
    assert split.difference(noise, truth_of(rows)).upper < -0.5
    assert split.difference(noise, noise).value == split.difference(noise, noise).upper == 0


def test_the_paired_difference_of_two_equally_good_scores_is_seldom_other_than_zero() -> None:
    rows, n_seeds, excluded = story_rows(), 12, 0
    for seed in range(n_seeds):
        difference = EvaluationSet(rows).difference(noisy(rows, 1.0, 2 * seed), noisy(rows, 1.0, 2 * seed + 1))
        excluded += not difference.lower <= 0 <= difference.upper
    # A 95 % interval misses each time with chance 0.05: four or more of twelve would happen once in 450 sets of seeds.
    assert excluded < 4
