"""Effects are means over prompts with honest intervals; what moved the wrong way is counted against the unsteered text."""

import math
from dataclasses import replace

import numpy as np
import pytest

from probe.steering.callback import SteeringCallback
from probe.steering.effects import band, curves, mean_over_prompts, moved_wrong, share_of_gap
from probe.steering.look import compare_layers
from probe.steering.measuring import SteeredText


def sample(prompt: str, strength: float, share: float | None, score: float = 0.0, text: str = "a b c d") -> SteeredText:
    witnessed = {} if share is None else {"inventive_share": share}
    return SteeredText(prompt, "direction", strength, text, score, 0.1 * strength, 0.2, 0.0, 0, witnessed)


def steered(n: int = 30, gain: float = 0.4) -> list[SteeredText]:
    rng = np.random.default_rng(0)
    start = rng.uniform(0, 0.5, n)
    return [sample(f"p{i}", s, float(start[i] + gain * s)) for s in (0.0, 1.0) for i in range(n)]


def test_a_curve_holds_the_mean_of_each_strength_with_an_interval_over_prompts() -> None:
    samples = steered()
    found = curves(samples)["inventive_share"]
    for strength in (0.0, 1.0):
        values = [s.value("inventive_share") for s in samples if s.strength == strength]
        assert found[strength].value == pytest.approx(np.mean(values))
        half = 2.045 * np.std(values, ddof=1) / math.sqrt(30)  # Student's t
        assert found[strength].upper - found[strength].lower == pytest.approx(2 * half, rel=0.15)


def test_texts_of_one_prompt_are_no_independent_evidence() -> None:
    samples = [s for s in steered() if s.strength == 0]
    repeated = [replace(s, seed=seed) for s in samples for seed in range(9)]
    one, many = (mean_over_prompts(x, "inventive_share") for x in (samples, repeated))
    assert many.upper - many.lower == pytest.approx(one.upper - one.lower, rel=0.02)
    assert (many.n, many.n_groups) == (270, 30)


def test_an_empty_text_is_left_out_of_the_mean_and_not_counted_as_nothing() -> None:
    samples = [replace(s, score=math.nan) if i % 3 == 0 else replace(s, score=1.0) for i, s in enumerate(steered())]
    assert mean_over_prompts(samples, "score").value == 1.0
    assert math.isnan(mean_over_prompts([replace(s, score=math.nan) for s in samples], "score").value)


def test_prompts_that_move_against_the_strength_are_counted_by_the_witness_else_by_the_score() -> None:
    before = [sample(f"p{i}", 0.0, 0.5) for i in range(10)]
    after = [sample(f"p{i}", 1.0, 0.6 if i < 7 else 0.4) for i in range(10)]
    assert moved_wrong(before, after, told="inventive_share").value == pytest.approx(0.3)
    backwards = [replace(s, strength=-1.0) for s in after]
    assert moved_wrong(before, backwards, told="inventive_share").value == pytest.approx(0.7)
    unread = [[replace(s, witnessed={}, score=-s.value("inventive_share")) for s in side] for side in (before, after)]
    assert moved_wrong(*unread).value == pytest.approx(0.7)
    assert "inventive_share" not in curves([*unread[0], *unread[1]])
    assert moved_wrong(before, [replace(s, strength=2.0) for s in before]).value == 0  # what did not move is not wrong


def test_diversity_is_that_of_the_whole_set() -> None:
    samples = [
        sample(f"p{i}", s, 0.5, text=f"word{i} a b c d" if s == 0 else "same words here they are")
        for s in (0.0, 1.0)
        for i in range(5)
    ]
    found = curves(samples)
    assert found["distinct_1"][0.0].value == pytest.approx(9 / 25)
    assert found["distinct_1"][1.0].value == pytest.approx(5 / 25)
    assert found["self_bleu"][1.0].value > found["self_bleu"][0.0].value


def test_the_band_is_that_of_the_arms_means() -> None:
    arms = [[sample("p", 1.0, k / 20), sample("q", 1.0, k / 20)] for k in range(21)]
    assert band(arms)["inventive_share"][1.0] == pytest.approx((0.05, 0.95))
    assert band([]) == {}


def test_an_unreadable_text_moved_neither_way_so_all_that_could_be_read_may_have_moved_wrong() -> None:
    before = [sample(f"p{i}", 0.0, None, score=0.5) for i in range(10)]
    after = [sample(f"p{i}", 1.0, None, score=0.4 if i < 5 else math.nan) for i in range(10)]
    wrong = moved_wrong(before, after)
    assert (wrong.value, wrong.n, wrong.n_groups) == (1.0, 5, 5)
    assert moved_wrong(after, before[:5]).n == 5
    nothing = moved_wrong(before, after[5:])
    assert math.isnan(nothing.value)
    assert nothing.n == 0


def test_a_share_of_the_gap_is_that_of_the_texts_that_could_be_read() -> None:
    def sides(*scores: float) -> list[SteeredText]:
        return [sample(f"p{i}", 0.0, None, score=score) for i, score in enumerate(scores)]

    share = share_of_gap(sides(0, 0, math.nan), sides(1, math.nan, 1), sides(2, 2, 2), ["a", "b", "c"], "score")
    assert share.value == pytest.approx(0.5)


def test_where_steering_leads_away_the_layer_that_leads_furthest_is_recommended() -> None:
    plain = [sample("p", 0.0, None, 0.5)]
    at_layer = {3: [sample("p", -1.0, None, 0.49)], 7: [sample("p", -1.0, None, 0.1)]}
    assert [look.layer for look in compare_layers(plain, at_layer, -1.0)] == [7, 3]
    assert [look.layer for look in compare_layers(plain, at_layer, 1.0)] == [3, 7]
    for strengths, strongest in (([-1.0, 1.0], 1.0), ([-2.0, -1.0], -2.0), ([0.5, 2.0], 2.0)):
        assert SteeringCallback(strengths=strengths).strongest == strongest
