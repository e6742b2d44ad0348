"""A pooled figure can be an author detector or a ruler: the same is told within each source, and by which text was longer."""

import numpy as np
import pytest
from scipy.stats import spearmanr

from probe.data.reading import identity, preference_rows, story_rows
from probe.data.rows import Preference, RatedText
from probe.metrics.evaluation import EvaluationSet
from probe.metrics.strata import LONGER, SHORTER


def test_an_author_detector_ranks_all_texts_and_none_within_an_author() -> None:
    rng = np.random.default_rng(0)
    sources = ["human", "machine"] * 100
    ratings = [rng.normal(3.0 * (source == "human")) for source in sources]
    rows = story_rows(
        [RatedText("t", r, f"g{i // 4}", source=s) for i, (r, s) in enumerate(zip(ratings, sources, strict=True))]
    )
    detector = np.array([float(s == "human") for s in sources]) + rng.normal(0, 0.01, 200)
    reader = np.array(ratings) + rng.normal(size=200)
    found = EvaluationSet(rows).evaluate({"detector": detector, "reader": reader}, np.ones(200))
    assert found.estimates["spearman"]["detector"].lower > 0.5
    assert list(found.within) == ["human", "machine"]
    for source, of in found.within.items():
        members = np.array(sources) == source
        for name, scores in {"detector": detector, "reader": reader}.items():
            assert of[name].value == pytest.approx(spearmanr(scores[members], np.array(ratings)[members])[0])
        assert abs(of["detector"].value) < 0.3
        assert of["reader"].lower > 0
        assert (of["reader"].n, of["reader"].n_groups) == (100, 50)
    assert {"metric", "column", "value"} <= set(found.as_records()[0])
    assert "within: human" in {record["metric"] for record in found.as_records()}


def test_a_ruler_is_always_right_where_the_longer_text_won_and_never_where_the_shorter_did() -> None:
    kinds = [("edit", "draft"), ("draft", "edit"), ("human", "edit")]
    preferences = [
        Preference(
            "x " * (i % 5 + 2), "x " * 4, "ab"[i % 2], f"g{i}", source_a=kinds[i % 3][0], source_b=kinds[i % 3][1]
        )  # type: ignore[arg-type]
        for i in range(60)
    ]
    rows = preference_rows(preferences)
    lengths = np.array([len(row.response.split()) for row in rows], dtype=float)  # type: ignore[union-attr]
    found = EvaluationSet(rows).evaluate({"length": lengths}, lengths)
    assert found.within[LONGER]["length"].value == 1
    assert found.within[SHORTER]["length"].value == 0
    assert (
        found.within[LONGER]["length"].n + found.within[SHORTER]["length"].n == 48
    )  # where neither is longer, neither
    assert {"draft v. edit", "edit v. human"} <= set(found.within)  # in whichever order the two were shown
    assert found.within["draft v. edit"]["length"].n == 40


def test_who_wrote_a_text_is_no_part_of_what_was_learned_from() -> None:
    with_source, without = (RatedText("t", 1.0, "g", source=source) for source in ("human", None))
    assert identity(with_source) == identity(without)
    assert identity(story_rows([with_source])[0]) == identity(story_rows([without])[0])


def test_where_there_is_one_author_alone_there_are_no_parts() -> None:
    rows = story_rows([RatedText("t", float(i), f"g{i}", source="human") for i in range(9)])
    assert EvaluationSet(rows).evaluate({"a": np.arange(9.0)}, np.ones(9)).within == {}
