"""Figures of the paper's experiment: how each set of stories is distributed, and which set wins."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from probe.metrics.pairwise import WinRate
from probe.show import BLUE, GREEN, GREY, ORANGE, PURPLE, label
from probe.steering.effects import values_of
from probe.steering.measuring import SteeredText

COLOUR_OF = {"uncreative": GREY, "steered": BLUE, "creative": GREEN}
JUDGE_STYLES = ((BLUE, "o"), (ORANGE, "s"), (GREEN, "D"), (PURPLE, "^"))


def distributions(sets: Mapping[str, Sequence[SteeredText]], measures: Sequence[str]) -> Figure:
    """Each measure of each set: every text a dot, the quartiles as a box, the mean as a thick line."""
    figure = Figure(figsize=(4.4 * len(measures), 1.2 + 0.5 * len(sets)), layout="constrained")
    names = list(sets)[::-1]
    rng = np.random.default_rng(0)
    for axis, measure in zip(np.ravel(figure.subplots(1, len(measures), sharey=True)), measures, strict=True):
        for row, name in enumerate(names):
            values = values_of(sets[name], measure)
            values = values[np.isfinite(values)]
            colour = COLOUR_OF.get(name, ORANGE)
            axis.scatter(values, row + rng.uniform(-0.3, 0.3, len(values)), s=5, color=colour, alpha=0.35, linewidths=0)
            if len(values):
                axis.boxplot(
                    values, positions=[row], orientation="horizontal", widths=0.5, showfliers=False, manage_ticks=False,
                    medianprops={"color": "black", "linewidth": 0.8}, boxprops={"linewidth": 0.8},
                    showmeans=True, meanline=True, meanprops={"color": "black", "linestyle": "-", "linewidth": 2.2},
                )  # fmt: skip
        axis.set(xlabel=label(measure), yticks=range(len(names)))
        axis.set_yticklabels(names)
    figure.supxlabel("a dot is a story, a box the quartiles, the thick line the mean", fontsize="small", color=GREY)
    return figure


def win_rate_plot(rates: Mapping[str, Mapping[tuple[str, str], WinRate]]) -> Figure:
    """How often each set wins against another, by each judge, with 95 % intervals; at one half neither does."""
    pairs = list(dict.fromkeys(pair for of_judge in rates.values() for pair in of_judge))[::-1]
    figure = Figure(figsize=(6.4, 1.4 + 0.4 * len(pairs)), layout="constrained")
    axis = figure.subplots()
    for i, (judge, of_pair) in enumerate(rates.items()):
        colour, marker = JUDGE_STYLES[i % len(JUDGE_STYLES)]
        offset = 0.5 * ((i + 0.5) / len(rates) - 0.5)
        named: str | None = label(judge)
        for row, pair in enumerate(pairs):
            rate = of_pair[pair].rate if pair in of_pair else None
            if rate is None or np.isnan(rate.value):
                continue
            at = row - offset
            if np.isfinite(rate.lower):
                axis.plot([rate.lower, rate.upper], [at, at], color=colour, linewidth=1.5)
            axis.plot(rate.value, at, color=colour, marker=marker, markersize=5, linestyle="", label=named)
            named = None
    axis.axvline(0.5, color=GREY, linewidth=0.8)
    axis.set(xlabel="comparisons won by the first set, ties half (95 % intervals)", xlim=(-0.02, 1.02))
    axis.set_yticks(range(len(pairs)), [f"{a} v. {b}" for a, b in pairs])
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    return figure
