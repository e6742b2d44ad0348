"""People: agreement equals published examples, and an interval over raters is wider than one over texts alone."""

import krippendorff
import numpy as np
import pytest

from probe.metrics import people
from probe.metrics.bootstrap import group_bootstrap
from probe.metrics.people import against_people, agreement, rating_matrix, spearman_over_raters
from probe.metrics.ranks import spearman

NAN = np.nan
# Krippendorff 2011, "Computing Krippendorff's Alpha-Reliability", section C: interval alpha 0.849 in his worked example.
PUBLISHED = np.array(
    [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, NAN, NAN, NAN],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, NAN, 3],
        [NAN, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, NAN],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, NAN],
    ]
).T


def rated(noise: float, n: int = 60, n_raters: int = 3, seed: int = 0) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """A score, ratings that follow it, and groups of two texts."""
    rng = np.random.default_rng(seed)
    truth = rng.normal(size=n)
    return truth, truth[:, None] + noise * rng.normal(size=(n, n_raters)), [str(i // 2) for i in range(n)]


def test_alpha_is_the_published_one_with_missing_ratings() -> None:
    found = agreement(PUBLISHED, [str(i) for i in range(12)])
    assert found is not None
    assert found.alpha.value == pytest.approx(0.849, abs=5e-4)
    assert found.alpha.lower < found.alpha.value < found.alpha.upper
    assert found.alpha.too_few_groups


def test_raters_who_say_the_same_agree_wholly_and_raters_who_guess_not_at_all() -> None:
    for noise, alpha, one in ((1e-9, 1.0, 1.0), (1e9, 0.0, 0.0)):
        _, ratings, groups = rated(noise, n=400)
        found = agreement(ratings, groups)
        assert found is not None
        assert found.alpha.value == pytest.approx(alpha, abs=0.1)
        assert found.one_against_others.value == pytest.approx(one, abs=0.15)


def test_one_rater_is_measured_against_the_mean_of_the_others() -> None:
    _, ratings, groups = rated(0.7)
    expected = [spearman(ratings[:, r], np.delete(ratings, r, 1).mean(1))[0] for r in range(3)]
    found = agreement(ratings, groups)
    assert found is not None
    assert found.one_against_others.value == pytest.approx(np.mean(expected))


def test_many_raters_of_a_few_texts_each_are_averaged_over_those_who_say_something() -> None:
    rng = np.random.default_rng(0)
    truth = rng.normal(size=36)
    ratings = np.full((36, 11), NAN)
    for i in range(36):
        raters = rng.choice(11, 3, replace=False)
        ratings[i, raters] = truth[i] + rng.normal(size=3)
    ratings[:, 10] = np.where(np.isfinite(ratings[:, 10]), 0.5, NAN)  # one who calls all texts the same
    found = agreement(ratings, [str(i // 3) for i in range(36)])
    assert found is not None
    assert 0 < found.one_against_others.lower < found.one_against_others.value < found.one_against_others.upper < 1


def test_without_two_ratings_of_one_text_there_is_no_agreement() -> None:
    score, ratings, groups = rated(0.5)
    assert agreement(ratings[:, :1], groups) is None
    assert against_people(score, rating_matrix([None] * len(score)), groups) is None
    apart = np.full((4, 2), NAN)
    apart[:2, 0] = apart[2:, 1] = [1, 2]
    assert agreement(apart, list("abcd")) is None


def test_few_raters_widen_the_interval_and_identical_ones_do_not() -> None:
    def width(noise: float) -> tuple[float, float]:
        score, ratings, groups = rated(noise, n=200)
        both = spearman_over_raters(score, ratings, groups)
        (texts,) = group_bootstrap(lambda w: spearman(score, ratings.mean(1), w), groups)
        assert both.value == pytest.approx(texts.value)
        return both.upper - both.lower, texts.upper - texts.lower

    wide, narrow = width(1.5)
    assert wide > 1.15 * narrow
    same, alone = width(1e-9)
    assert same == pytest.approx(alone, abs=1e-3)


def test_ratings_stand_in_the_order_of_their_names_with_gaps_where_none_was_given() -> None:
    found = rating_matrix([{"bo": 2.0, "ann": 1.0}, None, {"cy": 3.0}])
    np.testing.assert_array_equal(found, [[1, 2, NAN], [NAN] * 3, [NAN, NAN, 3]])
    assert rating_matrix([None, None]).shape == (2, 0)


def test_alpha_equals_the_library_on_coarse_ratings_with_gaps_also_over_rows_drawn_several_times() -> None:
    rng = np.random.default_rng(0)
    ratings = np.round(rng.normal(size=(40, 1)) + rng.normal(size=(40, 4)))
    ratings[rng.random(ratings.shape) < 0.3] = NAN
    times = rng.integers(0, 3, (5, 40))
    found = people._alpha(ratings, times.astype(float))
    expected = [krippendorff.alpha(ratings.repeat(t, 0).T, level_of_measurement="interval") for t in times]
    np.testing.assert_allclose(found, expected)
