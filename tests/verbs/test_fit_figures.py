"""Figures of a deep model can be read: ticks apart, no empty pictures, the result first, shares and divergences within reason."""

from itertools import pairwise

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from probe.data.reading import Row, pair_rows
from probe.data.rows import TextPair
from probe.metrics.bootstrap import Estimate
from probe.metrics.evaluation import Evaluation, EvaluationSet
from probe.scorers.judging import CONTROLS
from probe.steering.effects import curves
from probe.steering.measuring import SteeredText
from probe.verbs.fit.figures import layer_curve, metrics_table, pictures, steering_curves


def evaluated(rows: list[Row]) -> Evaluation:
    rng = np.random.default_rng(0)
    columns = {f"layer_{k}": rng.normal(size=len(rows)) for k in range(30)}
    columns |= {name: rng.normal(size=len(rows)) for name in CONTROLS}
    return EvaluationSet(rows).evaluate(columns, rng.normal(size=len(rows)), 20)


PAIRS = evaluated(pair_rows([TextPair("p", "q", f"g{i}") for i in range(20)]))


def test_the_tick_labels_of_thirty_layers_do_not_overlap() -> None:
    figure = layer_curve(PAIRS, "spearman", range(30), 3, (-0.1, 0.1))
    FigureCanvasAgg(figure).draw()
    boxes = [label.get_window_extent() for label in figure.axes[0].get_xticklabels() if label.get_text()]
    assert len(boxes) > 3
    assert all(left.x1 < right.x0 for left, right in pairwise(boxes))


def test_what_pairs_alone_cannot_tell_has_neither_picture_nor_column() -> None:
    assert set(PAIRS.told) == {"spearman", "auroc", "pair_accuracy", "length"}
    head, _, *rows = metrics_table(PAIRS).splitlines()
    assert "low" not in head
    assert len(rows) == 30 + len(CONTROLS)


def test_the_first_picture_is_what_steering_did_and_cost() -> None:
    found = pictures(
        ["compression_ratio", "distinct_1", "extra_nll", "kl", "moved_wrong", "repetition", "score"], "score"
    )
    assert min(found) == "result/steering"
    assert found["result/steering"] == ["score", "extra_nll", "kl", "repetition"]
    assert set(found["steer/other_measures"]) == {"compression_ratio", "distinct_1", "moved_wrong"}
    told = pictures(["kl", "loud", "score", "vowels"], "vowels")  # a witness tells: its measure comes first
    assert told == {"result/steering": ["vowels", "score", "kl"], "steer/other_measures": ["loud"]}


def test_a_share_of_one_is_a_point_within_the_axes() -> None:
    curve = {x: Estimate(1.0, 0.9, 1.0, 8, 8) for x in (0.0, 1.0)}
    figure = steering_curves({"inventive_share": curve, "extra_nll": curve}, "dose", {})
    low, high = figure.axes[0].get_ylim()
    assert low < 0
    assert high > 1


def test_no_interval_of_a_divergence_reaches_below_zero() -> None:
    kl = np.random.default_rng(0).normal(0.02, 0.5, 24)
    texts = [SteeredText(f"p{i}", "direction", 1.0, "A text.", 0.1, 0.2, float(kl[i]), 0.0, 0) for i in range(24)]
    found = curves(texts)["kl"][1.0]
    assert kl.mean() < 0  # by chance, as a mean of log-ratios can be
    assert found.value == found.lower == 0 < found.upper
    assert np.isnan(curves(texts[:1])["kl"][1.0].lower)


@pytest.mark.parametrize("measure", ["score", "kl"])
def test_random_directions_are_in_the_legend_wherever_their_band_is_drawn(measure: str) -> None:
    curve = {x: Estimate(0.1, 0.0, 0.2, 8, 8) for x in (0.0, 1.0)}
    figure = steering_curves({"extra_nll": curve, measure: curve}, "dose", {measure: {1.0: (0.0, 0.1)}})
    assert any("random" in text.get_text() for text in figure.legends[0].get_texts())
