"""Figures for TensorBoard and reports: named axes, intervals, colours that colour-blind readers can tell apart."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from probe.evaluation import Evaluation
from probe.metrics import Estimate, Floats

# Okabe and Ito's palette.
BLUE, ORANGE, GREEN, PURPLE, GREY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#777777"
LABELS = {
    "spearman": "Spearman(score, truth)",
    "spearman_low": "Spearman, lower half of the truth",
    "spearman_high": "Spearman, upper half of the truth",
    "auroc": "AUROC, upper v. lower half",
    "pair_accuracy": "pair accuracy",
    "length": "Spearman(score, length)",
}
CHANCE = {"auroc": 0.5, "pair_accuracy": 0.5}


def layer_curves(result: Evaluation, layers: Sequence[int], chosen: int, band: Floats) -> Figure:
    """Every metric against the layer with 95 % intervals; controls as lines, random directions as a band."""
    figure = Figure(figsize=(12, 6.4), layout="constrained")
    axes = figure.subplots(2, 3, sharex=True).flat
    for axis, (metric, columns) in zip(axes, result.estimates.items(), strict=False):
        _curve(axis, layers, [columns[f"layer_{k}"] for k in layers], BLUE, "per layer, 95 % interval")
        for name, colour, style in (("length", PURPLE, ":"), ("bag_of_words", ORANGE, "--")):
            if name in columns and not (metric == "length" == name):
                axis.axhline(columns[name].value, color=colour, linestyle=style, label=name.replace("_", " "))
        if metric == "spearman":
            low, high = np.nanpercentile(band, [5, 95])
            axis.axhspan(low, high, color=GREY, alpha=0.2, label="random directions, 5-95 %")
        axis.axhline(CHANCE.get(metric, 0.0), color=GREY, linewidth=0.8)
        if chosen >= 0:
            axis.axvline(chosen, color=GREEN, linewidth=0.8, label=f"chosen layer {chosen}")
        axis.set(ylabel=LABELS[metric], xlabel="layer (block, 0-based)", xticks=list(layers))
    handles, labels = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5, frameon=False)
    return figure


def score_histogram(scores: Floats, truth: Floats, middle: float, layer: int) -> Figure:
    """Scores at one layer for the upper and the lower half of the truth."""
    figure = Figure(figsize=(6.4, 4), layout="constrained")
    axis = figure.subplots()
    bins = np.histogram_bin_edges(scores, 30).tolist()
    for half, colour, name in ((truth < middle, ORANGE, "lower half"), (truth > middle, BLUE, "upper half")):
        axis.hist(
            scores[half], bins=bins, color=colour, alpha=0.6, label=f"{name} of the truth (n = {int(half.sum())})"
        )
    axis.set(xlabel=f"score at layer {layer}", ylabel="texts")
    axis.legend(frameon=False)
    return figure


def steering_curves(curves: Mapping[str, Mapping[float, float]], unit: str) -> Figure:
    """Each measure of the steered texts against the strength."""
    figure = Figure(figsize=(3.2 * len(curves), 3.2), layout="constrained")
    for axis, (measure, curve) in zip(np.atleast_1d(figure.subplots(1, len(curves))), curves.items(), strict=True):
        axis.plot(list(curve), list(curve.values()), marker="o", color=BLUE)
        axis.set(xlabel=f"strength ({unit})", ylabel=measure.replace("_", " "))
    return figure


def _curve(axis: object, x: Sequence[int], y: Sequence[Estimate], colour: str, label: str) -> None:
    from matplotlib.axes import Axes

    assert isinstance(axis, Axes)
    axis.plot(list(x), [e.value for e in y], marker="o", color=colour, label=label)
    axis.fill_between(list(x), [e.lower for e in y], [e.upper for e in y], color=colour, alpha=0.2)
