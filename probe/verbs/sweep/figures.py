"""Figures of a sweep: heat maps of layer and strength, and what a gain costs."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from probe.lm.spec import UNITS
from probe.metrics.ranks import Floats
from probe.show import BLUE, GREEN, GREY, ORANGE, label
from probe.verbs.sweep.sweep import Cell, pareto


def heat_map(cells: Sequence[Cell], measure: str, recommended: Cell) -> Figure:
    """One measure at every layer and strength; the recommended setting is framed."""
    places = list(dict.fromkeys(c.setting.where for c in cells))
    strengths = sorted({c.setting.strength for c in cells})
    values: Floats = np.full((len(places), len(strengths)), np.nan)
    for c in cells:
        values[places.index(c.setting.where), strengths.index(c.setting.strength)] = c.value(measure)
    figure = Figure(figsize=(1.6 + 0.75 * len(strengths), 1.6 + 0.5 * len(places)), layout="constrained")
    axis = figure.subplots()
    image = axis.imshow(values, cmap="cividis", aspect="auto", origin="lower")
    figure.colorbar(image, label=label(measure))
    middle = float(np.nanmin(values) + np.nanmax(values)) / 2
    for i, j in np.ndindex(values.shape):
        value = float(values[i, j])
        if np.isfinite(value):
            colour = "white" if value < middle else "black"
            axis.text(j, i, f"{value:.2f}", ha="center", va="center", fontsize=8, color=colour)
    at = strengths.index(recommended.setting.strength), places.index(recommended.setting.where)
    axis.plot(
        [at[0]], [at[1]], marker="s", markersize=26, markerfacecolor="none", markeredgecolor=ORANGE, markeredgewidth=2
    )
    axis.set(xlabel=f"strength ({UNITS[recommended.setting.unit]})", ylabel="layer (block, 0-based)")
    axis.set_xticks(range(len(strengths)), [f"{s:g}" for s in strengths])
    axis.set_yticks(range(len(places)), places)
    return figure


def pareto_plot(cells: Sequence[Cell], recommended: Cell, budget: float) -> Figure:
    """Gain against extra NLL: all settings, those that no other beats, the budget and the recommended one."""
    figure = Figure(figsize=(5.6, 4.4), layout="constrained")
    axis = figure.subplots()
    axis.scatter([c.means["extra_nll"] for c in cells], [c.gain for c in cells], color=GREY, s=18, label="setting")
    front = pareto(cells)
    axis.plot(
        [c.means["extra_nll"] for c in front],
        [c.gain for c in front],
        color=BLUE,
        marker="o",
        label="beaten by no other",
    )
    for c in front:
        axis.annotate(f"{c.setting.where}: {c.setting.strength:g}", (c.means["extra_nll"], c.gain), fontsize=7)
    axis.axvline(budget, color=GREEN, linestyle="--", label="budget")
    axis.plot(recommended.means["extra_nll"], recommended.gain, "*", color=ORANGE, markersize=14, label="recommended")
    axis.set(xlabel=label("extra_nll"), ylabel=label("gain"))
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    return figure
