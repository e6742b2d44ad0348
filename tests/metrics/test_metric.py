"""The list of metrics: an entry is all that a new one takes, in evaluations, sheets, tables, figures and files."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch

from probe.data.reading import crossed_rows, pair_rows, preference_rows, story_rows
from probe.data.rows import CrossedText, Preference, RatedText, TextPair
from probe.metrics.evaluation import EvaluationSet
from probe.metrics.metric import METRICS, Metric, scored_over
from probe.scorers.judging import CONTROLS
from probe.verbs.compare.crossfit import ContrastSet, CrossFit
from probe.verbs.compare.figures import interval_plot
from probe.verbs.compare.sheets import Sheet
from probe.verbs.compare.standings import standings
from probe.verbs.compare.tournament import Fit
from probe.verbs.fit.figures import layer_curve, metrics_table

RNG = np.random.default_rng(0)
STORIES = [RatedText("s", float(RNG.integers(5)), f"g{g}") for g in range(30) for _ in range(4)]
PAIRS = [TextPair("c", "u", f"p{g}", "bold", "dull") for g in range(25)]
VOTES = [Preference("x", "y", won, f"v{i}") for i, won in enumerate(("a", "b", "tie") * 8)]  # type: ignore[arg-type]
CROSSED = [
    CrossedText("t", idea, style, f"x{g}")  # type: ignore[arg-type]
    for g in range(25)
    for idea in ("inventive", "ordinary")
    for style in ("plain", "ornate")
]
BEST = Metric(
    "best_on_top", "share of resamples with the best text on top", 0.25, lambda texts, w: _best(texts.scores, w)
)


def _best(scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return np.broadcast_to(scores.argmax(0) == 0, (len(weights), scores.shape[1])).astype(float)


@pytest.fixture
def one_more() -> Iterator[None]:
    METRICS.append(BEST)
    yield
    METRICS.remove(BEST)


@pytest.mark.usefixtures("one_more")
def test_one_entry_is_in_the_evaluation_its_files_its_table_and_its_figure() -> None:
    rows = story_rows(STORIES)
    columns = {name: RNG.normal(size=len(rows)) for name in ("layer_0", "layer_1", *CONTROLS)}
    found = EvaluationSet(rows).evaluate(columns, np.arange(len(rows)), 20)
    assert found.estimates["best_on_top"]["layer_0"].n == len(rows)
    assert any(record["metric"] == "best_on_top" for record in found.as_records())
    assert "best on top" in metrics_table(found)
    axis = layer_curve(found, "best_on_top", (0, 1), 1, (0, 1)).axes[0]
    assert axis.get_ylabel() == BEST.label
    assert any(set(line.get_ydata()) == {BEST.chance} for line in axis.lines)


@pytest.mark.usefixtures("one_more")
def test_one_entry_is_in_the_sheets_of_a_comparison_and_its_figure() -> None:
    crossfit = CrossFit({"pairs": ContrastSet(PAIRS, "response")}, {"stories": STORIES}, {}, judged_on="stories")
    facts = {
        "columns": ["score"], "chosen": "score", "kind": "single", "layers": [0], "settings": {}, "note": "",
        "n_trainable": 0, "fit_seconds": 1.0, "texts_per_second": 2.0, "span": "response",
    }  # fmt: skip
    fits = [
        Fit({f"scores/{test}": torch.rand(len(crossfit.rows_in(test, k)), 1) for test in crossfit.tests}, facts)
        for k in range(crossfit.n_folds)
    ]
    lengths = {test: np.ones(len(of.rows)) for test, of in crossfit.tests.items()}
    assert "best_on_top" in Sheet(crossfit, "stories", {"x": fits}, lengths["stories"]).estimates(10)
    found = standings("lm", crossfit, {"x": fits}, lengths, "x", 10)
    axis = interval_plot(found, "stories", "best_on_top").axes[0]
    assert axis.get_xlabel().startswith(BEST.label)
    assert BEST.chance in axis.lines[-1].get_xdata()


def test_every_metric_goes_over_what_it_says_and_knows_its_chance() -> None:
    rows = pair_rows(PAIRS) + story_rows(STORIES) + preference_rows(VOTES) + crossed_rows(CROSSED)
    judged = scored_over(rows, RNG.normal(size=(len(rows), 400)), RNG.normal(size=len(rows)))
    assert {over: len(of.rows) for over, of in judged.items()} == {
        "texts": len(STORIES), "judged": len(STORIES), "rated": len(STORIES), "ratings": len(STORIES), "pairs": len(PAIRS),
        "preferences": 16, "crossed": len(CROSSED),
    }  # fmt: skip
    for metric in METRICS:
        of = judged[metric.over]
        values = metric.of(of, np.ones((1, len(of.rows))))[0]
        # 400 scores that know nothing, each within about 0.3 of chance: their mean has a standard error below 0.015.
        assert np.mean(values) == pytest.approx(metric.chance, abs=0.06), metric.name
