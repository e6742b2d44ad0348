"""Figures of a comparison: one colour and marker per contestant, intervals wherever there are some."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from probe.metrics.bootstrap import Estimate
from probe.metrics.metric import metric_named
from probe.metrics.ranks import Floats
from probe.show import BLUE, GREEN, GREY, ORANGE, PURPLE
from probe.verbs.compare.standings import SOURCES, Geometry, Standing

COLOURS = (BLUE, ORANGE, GREEN, PURPLE, "#E69F00", "#56B4E9", "#000000", "#8C6D31", "#843C39", "#3182BD", "#636363")
MARKERS = "osD^vP*Xhp8"


def style_of(names: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Colour and marker of each contestant, the same in every figure."""
    return {name: (COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)]) for i, name in enumerate(names)}


def curves_over_layers(
    curves: Mapping[str, Mapping[int, Estimate]], standings: Sequence[Standing], test: str, metric: str
) -> Figure:
    """The compared metric of every contestant: over layers where it has some, else as a line; a band as an area."""
    figure = Figure(figsize=(7.5, 5.5), layout="constrained")
    axis = figure.subplots()
    style = style_of([s.name for s in standings])
    for name, curve in curves.items():
        colour, marker = style[name]
        layers, estimates = list(curve), list(curve.values())
        axis.plot(layers, [e.value for e in estimates], color=colour, marker=marker, label=name)
        axis.fill_between(layers, [e.lower for e in estimates], [e.upper for e in estimates], color=colour, alpha=0.12)
    for standing in standings:
        estimate = standing.estimates[test][metric]
        if standing.is_band:
            label = f"{standing.name}, 5-95 %"
            axis.axhspan(estimate.lower, estimate.upper, color=GREY, alpha=0.2, label=label)
        elif standing.name not in curves and np.isfinite(estimate.value):
            axis.axhline(estimate.value, color=style[standing.name][0], linestyle="--", label=standing.name)
    ticks = sorted({layer for curve in curves.values() for layer in curve})
    axis.set(
        xlabel="layer (block, 0-based)", ylabel=f"{metric_named(metric).label}, {test}, 95 % intervals", xticks=ticks
    )
    figure.legend(loc="outside lower center", ncols=3, frameon=False)
    return figure


def interval_plot(standings: Sequence[Standing], test: str, metric: str) -> Figure:
    """Every contestant's compared metric with its 95 % interval; a band with its 5th and 95th percentile."""
    shown = [s for s in standings if np.isfinite(s.estimates[test][metric].value)][::-1]
    figure = Figure(figsize=(7, 1.2 + 0.35 * len(shown)), layout="constrained")
    axis = figure.subplots()
    style = style_of([s.name for s in standings])
    for row, standing in enumerate(shown):
        estimate, (colour, marker) = standing.estimates[test][metric], style[standing.name]
        colour = GREY if standing.is_band else colour
        axis.plot([estimate.lower, estimate.upper], [row, row], color=colour, linewidth=2)
        axis.plot(estimate.value, row, color=colour, marker=marker)
    axis.axvline(metric_named(metric).chance, color=GREY, linewidth=0.8)
    labels = [f"{s.name} (5-95 % of directions)" if s.is_band else s.name for s in shown]
    axis.set(
        yticks=range(len(shown)),
        yticklabels=labels,
        xlabel=f"{metric_named(metric).label}, {test}, 95 % group bootstrap",
    )
    return figure


def roc_plot(rocs: Mapping[str, tuple[Floats, Floats]], names: Sequence[str], test: str) -> Figure:
    """ROC curves of the upper against the lower half of the truth, averaged over the folds."""
    figure = Figure(figsize=(6, 5.6), layout="constrained")
    axis = figure.subplots()
    style = style_of(names)
    for name, (false, true) in rocs.items():
        axis.plot(false, true, color=style[name][0], marker=style[name][1], markevery=20, label=name)
    axis.plot([0, 1], [0, 1], color=GREY, linewidth=0.8)
    axis.set(xlabel="false positive rate", ylabel=f"true positive rate, upper half of {test}", aspect="equal")
    figure.legend(loc="outside lower center", ncols=3, frameon=False)
    return figure


def source_plot(standings: Sequence[Standing]) -> Figure:
    """How much of each contestant's variance is the instruction and how much the text, in the crossed 2 x 2 table."""
    shown = [s for s in standings if s.sources and np.isfinite(s.sources["text"].value)][::-1]
    figure = Figure(figsize=(7, 1.4 + 0.35 * len(shown)), layout="constrained")
    axis = figure.subplots()
    left = np.zeros(len(shown))
    for source, colour in zip(SOURCES, (ORANGE, BLUE, PURPLE, GREY, "#DDDDDD"), strict=True):
        share = np.array([s.sources[source].value for s in shown])
        axis.barh(range(len(shown)), share, left=left, color=colour, label=source)
        left += share
    axis.set(yticks=range(len(shown)), yticklabels=[s.name for s in shown], xlim=(0, 1))
    axis.set_xlabel("share of the variance of the scores, teacher-forced 2 x 2")
    figure.legend(loc="outside lower center", ncols=4, frameon=False)
    return figure


def geometry_plot(geometry: Geometry) -> Figure:
    """Cosines between the directions at each layer, a split half on the diagonal."""
    columns = min(4, len(geometry.layers))
    rows = -(-len(geometry.layers) // columns)
    figure = Figure(figsize=(2.6 * columns + 1.6, 2.6 * rows + 0.6), layout="constrained")
    axes = np.atleast_1d(figure.subplots(rows, columns, sharex=True, sharey=True)).ravel()
    for i, axis in enumerate(axes):
        if i >= len(geometry.layers):
            axis.set_visible(False)
            continue
        cosine = geometry.cosine[i].copy()
        np.fill_diagonal(cosine, geometry.split_half[:, i])
        _heat(axis, cosine, geometry.names, geometry.names, f"layer {geometry.layers[i]}", (-1, 1))
    figure.suptitle("cosine between directions (diagonal: of two halves of the groups)")
    return figure


def transfer_plot(table: Mapping[str, Mapping[str, Mapping[str, Estimate]]]) -> Figure:
    """AUROC of what was fitted on one set (rows) and judged on another (columns), a panel per contestant."""
    fitted_on = list(table)
    tests = list(table[fitted_on[0]])
    names = list(table[fitted_on[0]][tests[0]])
    figure = Figure(figsize=(3.2 * len(names) + 1.5, 1.6 + 0.7 * len(fitted_on)), layout="constrained")
    for axis, name in zip(np.atleast_1d(figure.subplots(1, len(names), sharey=True)), names, strict=True):
        values = np.array([[table[row][column][name].value for column in tests] for row in fitted_on])
        _heat(axis, values, fitted_on, tests, name, (0, 1))
    figure.supylabel("fitted on")
    figure.supxlabel("judged on (AUROC)")
    return figure


def _heat(
    axis: Axes, values: Floats, rows: Sequence[str], columns: Sequence[str], title: str, limits: tuple[float, float]
) -> None:
    axis.imshow(values, cmap="RdBu_r", vmin=limits[0], vmax=limits[1])
    middle, half = (limits[0] + limits[1]) / 2, (limits[1] - limits[0]) / 2
    for i, j in np.ndindex(values.shape):
        colour = "white" if abs(values[i, j] - middle) > 0.7 * half else "black"
        axis.text(j, i, f"{values[i, j]:.2f}", ha="center", va="center", color=colour, fontsize=8)
    axis.set(title=title, xticks=range(len(columns)), yticks=range(len(rows)), yticklabels=rows)
    axis.set_xticklabels(columns, rotation=40, ha="right")
