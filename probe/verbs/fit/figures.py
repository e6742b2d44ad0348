"""Figures for TensorBoard and reports: named axes, intervals, colours that colour-blind readers can tell apart."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import cycle

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from probe.metrics.bootstrap import Estimate
from probe.metrics.evaluation import Evaluation
from probe.metrics.metric import metric_named
from probe.metrics.ranks import Floats
from probe.scorers.judging import CONTROLS
from probe.show import BLUE, GREEN, GREY, ORANGE, PURPLE, label, line
from probe.shown.escapes import markdown

matplotlib.rcParams["text.parse_math"] = False  # a dollar in the name of a set is a dollar


STYLES = ((PURPLE, ":"), (ORANGE, "--"), (GREEN, "-."))
"""Of the controls."""


def layer_curve(
    result: Evaluation, metric: str, layers: Sequence[int], chosen: int, band: tuple[float, float]
) -> Figure:
    """One metric against the layer with 95 % intervals; controls as lines, random directions as a band."""
    figure = Figure(figsize=(5, 4.4), layout="constrained")
    axis = figure.subplots()
    columns = result.estimates[metric]
    ours = [columns[f"layer_{k}"] for k in layers]
    axis.plot(list(layers), [e.value for e in ours], marker="o", color=BLUE, label="score, 95 % interval")
    axis.fill_between(list(layers), [e.lower for e in ours], [e.upper for e in ours], color=BLUE, alpha=0.2)
    for name, (colour, style) in zip(CONTROLS, cycle(STYLES), strict=False):
        if name != metric:
            axis.axhline(columns[name].value, color=colour, linestyle=style, label=name.replace("_", " "))
    if metric == "spearman":
        axis.axhspan(*band, color=GREY, alpha=0.2, label="random directions, 5-95 %")
    axis.axhline(metric_named(metric).chance, color=GREY, linewidth=0.8)
    axis.axvline(chosen, color=GREEN, linewidth=0.8, label=f"chosen layer {chosen}")
    axis.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
    axis.set(ylabel=metric_named(metric).label, xlabel="layer (block, 0-based)")
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    return figure


def idea_and_style(result: Evaluation, columns: Mapping[str, str]) -> Figure:
    """How often the inventive idea and the ornate style score higher, all else alike; columns are named for the reader."""
    figure = Figure(figsize=(5, 1.6 + 0.5 * len(columns)), layout="constrained")
    axis = figure.subplots()
    for offset, metric, colour, marker in ((-0.1, "idea_accuracy", BLUE, "o"), (0.1, "style_accuracy", ORANGE, "s")):
        estimates = [result.estimates[metric][name] for name in columns]
        ends = [[e.value - e.lower for e in estimates], [e.upper - e.value for e in estimates]]
        y = np.arange(len(columns)) + offset
        axis.errorbar(
            [e.value for e in estimates],
            y,
            xerr=ends,
            fmt=marker,
            color=colour,
            capsize=3,
            label=metric_named(metric).label,
        )
    axis.axvline(0.5, color=GREY, linewidth=0.8)
    axis.set(
        yticks=range(len(columns)), yticklabels=columns.values(), xlim=(-0.02, 1.02), xlabel="share, 95 % interval"
    )
    axis.invert_yaxis()
    figure.legend(loc="outside lower center", ncols=1, frameon=False)
    return figure


def score_histogram(scores: Floats, truth: Floats, middle: float, column: str, names: tuple[str, str]) -> Figure:
    """Scores of one column for the lower and the upper half of the truth, which are called by these names."""
    figure = Figure(figsize=(5, 4), layout="constrained")
    axis = figure.subplots()
    bins = np.histogram_bin_edges(scores, 30).tolist()
    for half, colour, name in ((truth < middle, ORANGE, names[0]), (truth > middle, BLUE, names[1])):
        label = f"{name}, by the truth (n = {int(half.sum())})"
        axis.hist(scores[half], bins=bins, color=colour, alpha=0.6, label=label)
    axis.set(xlabel=f"score ({column.replace('_', ' ')})", ylabel="texts")
    figure.legend(loc="outside lower center", frameon=False)
    return figure


RESULT = ("score", "extra_nll", "kl", "repetition")
"""What steering gained and what it cost; the other measures are a picture of their own."""


def pictures(measures: Iterable[str], told: str) -> dict[str, list[str]]:
    """Tag -> the measures in that picture; TensorBoard sorts by tag, so the result comes first, and in it what tells it."""
    of = list(measures)
    result = [m for m in dict.fromkeys((told, *RESULT)) if m in of]
    split = {"result/steering": result, "steer/other_measures": [m for m in of if m not in result]}
    return {tag: tags for tag, tags in split.items() if tags}


def steering_curves(
    curves: Mapping[str, Mapping[float, Estimate]], unit: str, band: Mapping[str, Mapping[float, tuple[float, float]]]
) -> Figure:
    """Measures of the steered texts against the strength, side by side: 95 % intervals, and random directions of equal norm."""
    n_columns = min(2, len(curves))  # TensorBoard shows a picture at a third of a page: letters of a wider one are lost
    n_rows = -(-len(curves) // n_columns)
    figure = Figure(figsize=(3.3 * n_columns, 2.6 * n_rows + 0.5), layout="constrained")
    axes = figure.subplots(n_rows, n_columns, squeeze=False).ravel()
    for axis in axes[len(curves) :]:
        axis.set_axis_off()
    for axis, (measure, curve) in zip(axes, curves.items(), strict=False):
        _steering_curve(axis, measure, curve, unit, band.get(measure, {}))
    named = {label: h for axis in axes for h, label in zip(*axis.get_legend_handles_labels(), strict=True)}
    figure.legend(named.values(), named.keys(), loc="outside lower center", ncols=2, frameon=False)
    return figure


def _steering_curve(
    axis: Axes, measure: str, curve: Mapping[float, Estimate], unit: str, band: Mapping[float, tuple[float, float]]
) -> None:
    strengths, estimates = list(curve), list(curve.values())
    axis.plot(strengths, [e.value for e in estimates], marker="o", color=BLUE, label="steered, 95 % interval")
    axis.fill_between(strengths, [e.lower for e in estimates], [e.upper for e in estimates], color=BLUE, alpha=0.2)
    if band:
        low, high = zip(*band.values(), strict=True)
        axis.fill_between(list(band), low, high, color=GREY, alpha=0.3, label="random directions of equal norm, 5-95 %")
    if measure.endswith("_share") or measure == "moved_wrong":
        axis.set_ylim(-0.05, 1.05)  # a share of 0 or 1 is a point on the axis, not behind it
    read = sorted({e.n for e in estimates})
    n = " to ".join(map(str, read[:: max(len(read) - 1, 1)]))
    axis.set_title(label(measure), fontsize="small")
    axis.set(xlabel=f"strength ({unit}), n = {n}")


def metrics_table(result: Evaluation) -> str:
    """Markdown: every metric of every layer and rival."""
    told = result.told
    lines = ["| | " + " | ".join(m.replace("_", " ") for m in told) + " |", "|---" * (len(told) + 1) + "|"]
    for name in result.estimates["spearman"]:
        cells = (line(result.estimates[m][name]) for m in told)
        lines.append(f"| {markdown(name.replace('_', ' '))} | {' | '.join(cells)} |")
    return "\n".join(lines)
