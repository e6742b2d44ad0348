"""A score on texts whose idea and style are crossed: which of the two it follows, and how much of it is topic or length."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LinearRegression

from probe.data.reading import Row, crossed, crossed_rows, story_rows
from probe.data.rows import CrossedText, RatedText, read_crossed
from probe.errors import ProbeError
from probe.metrics.crossed import variance_explained
from probe.metrics.evaluation import EvaluationSet
from probe.scorers.judging import CONTROLS, Judgement
from probe.verbs.fit.figures import idea_and_style
from probe.verbs.fit.verdict import idea_or_style, verdict

RNG = np.random.default_rng(0)
TEXTS = [
    CrossedText(f"{topic} {idea} {style}", idea, style, f"topic {topic}")  # type: ignore[arg-type]
    for topic in range(40)
    for idea in ("inventive", "ordinary")
    for style in ("plain", "ornate")
]
ROWS = crossed_rows(TEXTS)
IDEA, STYLE = np.array([row.cell for row in ROWS if row.cell]).T.astype(float)
TOPIC = np.repeat(RNG.normal(size=40), 4)
LENGTHS = RNG.normal(70, 5, len(ROWS))


def shares(score: np.ndarray) -> dict[str, float]:
    found = EvaluationSet(ROWS).evaluate({"score": score}, LENGTHS, 50)
    return {metric: found.estimates[metric]["score"].value for metric in found.told}


def test_a_score_that_follows_style_alone_orders_ideas_by_chance() -> None:
    found = shares(STYLE + 1e-9 * RNG.normal(size=len(ROWS)))
    assert found["style_accuracy"] == 1
    assert found["style_share"] == pytest.approx(1)
    assert found["idea_accuracy"] == pytest.approx(0.5, abs=0.1)
    assert found["idea_share"] == pytest.approx(0, abs=0.01)


def test_a_score_that_follows_ideas_through_a_louder_style_and_topic_tells_every_idea() -> None:
    found = shares(IDEA + 5 * STYLE + 20 * TOPIC)
    assert found["idea_accuracy"] == 1
    assert found["idea_share"] < found["style_share"] < found["topic_share"]
    assert found["idea_share"] + found["style_share"] + found["topic_share"] == pytest.approx(1)


def test_a_score_that_follows_length_alone_is_said_to() -> None:
    assert shares(-3 * LENGTHS + 7)["length_share"] == pytest.approx(1)


def test_the_variance_that_a_line_explains_is_that_of_a_regression_also_with_repeated_texts() -> None:
    x, y = RNG.normal(size=(2, 30))
    y += x
    times = RNG.integers(0, 3, 30)
    repeated = x.repeat(times)[:, None], y.repeat(times)
    expected = LinearRegression().fit(*repeated).score(*repeated)
    assert variance_explained(y[:, None], x, times[None].astype(float))[0, 0] == pytest.approx(expected)


def test_rated_stories_beside_a_crossed_set_are_judged_as_if_it_were_not_there() -> None:
    stories = story_rows([RatedText("s", float(i % 5), f"g{i % 25}") for i in range(100)])
    scores = RNG.normal(size=len(stories) + len(ROWS))
    alone = EvaluationSet(stories).evaluate({"x": scores[: len(stories)]}, np.arange(100.0), 20)
    beside = EvaluationSet(stories + ROWS).evaluate({"x": scores}, np.arange(100.0 + len(ROWS)), 20)
    for metric in alone.told:
        assert beside.estimates[metric] == alone.estimates[metric]


def test_quartets_are_found_in_any_order_of_the_rows() -> None:
    order = RNG.permutation(len(ROWS))
    rows = [ROWS[i] for i in order]
    found = crossed(rows)
    assert found.shape == (40, 4)
    assert [[rows[i].cell for i in four] for four in found] == [[(0, 0), (0, 1), (1, 0), (1, 1)]] * 40
    assert all(len({rows[i].group for i in four}) == 1 for four in found)


def test_a_topic_that_is_not_told_in_each_idea_and_style_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "crossed.jsonl"
    path.write_text("".join(json.dumps(vars(text)) + "\n" for text in TEXTS[:-1]))
    with pytest.raises(ProbeError, match="topic 39 as inventive ornate, inventive plain, ordinary plain"):
        read_crossed(path)
    path.write_text(json.dumps(vars(TEXTS[0]) | {"style": "baroque"}) + "\n")
    with pytest.raises(ProbeError, match="expected `style` to be plain or ornate, found 'baroque'"):
        read_crossed(path)


@pytest.mark.parametrize(
    ("score", "said"), [(IDEA, "it follows the idea"), (STYLE, "it is NOT shown to follow the idea")]
)
def test_the_words_and_the_figure_say_which_of_the_two_a_score_follows(score: np.ndarray, said: str) -> None:
    noise = 0.01 * RNG.normal(size=len(ROWS))
    found = EvaluationSet(ROWS).evaluate({"layer_3": score + noise, "length": LENGTHS}, LENGTHS, 50)
    assert said in idea_or_style({metric: columns["layer_3"] for metric, columns in found.estimates.items()})
    axis = idea_and_style(found, {"layer_3": "layer 3", "length": "length"}).axes[0]
    assert [label.get_text() for label in axis.get_yticklabels()] == ["layer 3", "length"]


@pytest.mark.parametrize(
    ("score", "said"), [(IDEA, "it follows the idea"), (STYLE, "it is NOT shown to follow the idea")]
)
def test_the_verdict_itself_says_whether_the_idea_is_followed(score: np.ndarray, said: str) -> None:
    rated = [Row("p", "t", f"g{i % 30}", float(i % 3)) for i in range(90)]
    judge = EvaluationSet(rated + ROWS)
    scores = np.append([row.truth for row in rated], score) + 0.01 * RNG.normal(size=90 + len(ROWS))
    columns = {"layer_3": scores} | {control: RNG.normal(size=len(scores)) for control in CONTROLS}
    found = judge.evaluate(columns, RNG.normal(size=len(scores)), 50)
    margins = {control: judge.difference(scores, columns[control]) for control in CONTROLS}
    data = SimpleNamespace(concept="creative", rows={"test": rated + ROWS}, rated=False)
    scorer: Any = SimpleNamespace(chosen="layer_3", kind="layers", note="", data=data)
    words = verdict(scorer, Judgement(found, scores, RNG.normal(0, 0.1, 50), margins))
    assert words.startswith("Verdict: layer 3 tells creative texts") and f"With style held equal, {said}." in words
