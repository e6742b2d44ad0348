"""Surface numbers are what their definitions say, by hand and by invariance."""

import math

import numpy as np
import pytest

from probe.metrics.texts import compression_ratio, distinct, repetition, self_bleu, type_token_ratio

WORDS = [f"word{i}" for i in range(500)]


def test_by_hand() -> None:
    assert type_token_ratio("The fox, the Fox sat.") == 3 / 5
    assert distinct(["a b a b", "a b c"], 1) == 3 / 7
    assert distinct(["a b a b", "a b c"], 2) == 3 / 5  # ab ba ab | ab bc
    assert repetition("one two three four one two three four") == pytest.approx(1 / 5)
    assert repetition("round and round and round and round and round") > 0.5


def test_a_text_without_words_is_no_error() -> None:
    assert (type_token_ratio("..."), repetition("a b")) == (0.0, 0.0)
    assert math.isnan(distinct(["", "?"], 1))
    assert math.isnan(self_bleu(["only one"]))
    assert math.isnan(self_bleu([]))
    assert math.isnan(compression_ratio([""]))


def test_sets_that_repeat_themselves_are_told_from_those_that_do_not() -> None:
    rng = np.random.default_rng(0)
    fresh = [" ".join(rng.choice(WORDS, 40)) for _ in range(12)]
    stale = [" ".join(rng.permutation([*fresh[0].split()[:30], *rng.choice(WORDS, 2)])) for _ in range(12)]
    same = [fresh[0]] * 12
    assert distinct(fresh, 1) > distinct(stale, 1) > distinct(same, 1)
    assert self_bleu(fresh) < 0.2 < self_bleu(same) == pytest.approx(1.0)
    assert compression_ratio(fresh) < compression_ratio(stale) < compression_ratio(same)


def test_order_of_the_texts_and_case_do_not_matter() -> None:
    texts = ["The cat sat on a mat.", "A dog ran on the mat!", "the Cat ran on"]
    for measure in (lambda t: distinct(t, 2), self_bleu):
        assert measure(texts) == pytest.approx(measure([t.upper() for t in texts[::-1]]))
