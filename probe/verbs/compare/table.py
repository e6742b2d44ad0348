"""The table of a comparison, a row per contestant: for the terminal and for a README."""

from dataclasses import dataclass

import numpy as np
from rich.table import Table
from rich.text import Text

from probe.metrics.bootstrap import Estimate
from probe.show import figures_table, p_value
from probe.shown.escapes import markdown
from probe.verbs.compare.comparison import LMResult
from probe.verbs.compare.crossfit import CrossFit
from probe.verbs.compare.standings import Standing

Adjusted = dict[tuple[str, str], float]
"""Holm-adjusted p by (LM, contestant)."""
MOST_SETS = 4
"""So many sets have a column of their own on a terminal."""
Cell = tuple[str, str]
"""A value and its interval."""


@dataclass(frozen=True)
class Grid:
    """A title, a header and rows of cells; one row may be told from the others."""

    title: str
    header: list[str]
    rows: list[list[Cell]]
    best: int = -1
    shown: tuple[int, ...] = ()
    """The columns, beside the first, that a terminal has room for."""
    with_intervals: bool = True
    """Whether they are shown with their intervals there."""

    def table(self) -> Table:
        """For the terminal: a few columns."""
        kept = (0, *self.shown)
        rows = [[self._shown(row[i], i == 0 or self.with_intervals) for i in kept] for row in self.rows]
        return figures_table(self.title, [self.header[i] for i in kept], rows, self.best)

    @staticmethod
    def _shown(cell: Cell, whole: bool) -> Text:
        value, interval = cell
        return Text(value).append(f"\n{interval}" if interval and whole else "", "dim")

    def markdown(self) -> str:
        """For a README: all columns."""
        rows = [self.header, *([" ".join(cell).replace("\n", " ").strip() for cell in row] for row in self.rows)]
        lines = [f"| {' | '.join(map(markdown, row))} |" for row in rows]
        lines[:1] = [f"**{markdown(self.title)}**", "", lines[0], "|" + "---|" * len(self.header)]
        return "\n".join(lines)


def standings_grid(result: LMResult, crossfit: CrossFit, reference: str, adjusted: Adjusted) -> Grid:
    """A row per contestant; the best one on the set that is compared on stands out."""
    shown = [test for test in crossfit.tests if test == crossfit.main or test not in crossfit.contrasts]
    judged = crossfit.judged_on
    header = ["scorer", *(f"{test} {crossfit.metric_of(test).replace('_', ' ')}" for test in shown)]
    header += [f"{judged} auroc", f"{judged} length", f"less {reference}", "p (Holm)", "learned", "fit s", "texts/s"]
    rows, several = [], len({s.span for s in result.standings}) > 1
    for s in result.standings:
        cells = [_cell(s.estimates[test].get(crossfit.metric_of(test))) for test in shown]
        cells += [_cell(s.estimates[judged].get(metric)) for metric in ("auroc", "length")]
        cells += [_cell(s.difference, "+"), (p_value(adjusted.get((s.lm, s.name), np.nan)), "")]
        applies = any(value != "-" for value, _ in cells)
        cost = (_thousands(s.n_trainable), f"{s.fit_seconds:.1f}", f"{s.texts_per_second:.0f}")
        read = ", ".join(filter(None, (layers_of(s), s.span if several else "")))
        rows.append(
            [(s.name, read if applies else "not applicable"), *cells, *((c if applies else "-", "") for c in cost)]
        )
    best = max(result.standings, key=lambda s: value_of(s, judged, crossfit.metric_of(judged)))
    title = f"{result.name}: cross-fitted over {crossfit.n_folds} folds of groups"
    length = len(shown) + 2
    narrow = (1 + shown.index(judged), length, length + 1, length + 2)  # and the difference, and its p
    return Grid(title, header, rows, result.standings.index(best), narrow)


def within_grids(result: LMResult) -> list[Grid]:
    """Of each test set that has parts, a row per contestant and a column per part."""
    single = [s for s in result.standings if not s.is_band]
    grids = []
    for test, parts in (single[0].within if single else {}).items():
        rows = [[(s.name, ""), *(_cell(s.within[test][part]) for part in parts)] for s in single]
        title = f"{result.name}: {test}, each part for itself; where these are lower than the whole, it is the part that is told"
        grids.append(Grid(title, ["scorer", *parts], rows, shown=tuple(range(1, min(len(parts), MOST_SETS) + 1))))
    return grids


def transfer_grid(result: LMResult) -> Grid:
    """AUROC of what was fitted on one set and judged on another, a row per set to fit on and contestant."""
    tests = list(next(iter(result.transfer.values())))
    names = list(next(iter(next(iter(result.transfer.values())).values())))
    rows = [
        [(name, f"fitted on {contrast}"), *(_cell(by_test[test][name]) for test in tests)]
        for name in names
        for contrast, by_test in result.transfer.items()
    ]
    title = f"{result.name}: AUROC across sets, no group judged by a fit that saw it"
    narrow = tuple(range(1, min(len(tests), MOST_SETS) + 1))
    return Grid(title, ["scorer", *tests], rows, shown=narrow, with_intervals=False)


def _cell(estimate: Estimate | None, sign: str = "") -> tuple[str, str]:
    if estimate is None or np.isnan(estimate.value):
        return "-", ""
    few = "\ntoo few groups" if estimate.too_few_groups else ""
    return f"{estimate.value:{sign}.2f}", f"[{estimate.lower:.2f}, {estimate.upper:.2f}]{few}"


def value_of(standing: Standing, test: str, metric: str) -> float:
    """The number to rank contestants by; a band and what could not be computed come last."""
    return -np.inf if standing.is_band else float(np.nan_to_num(standing.estimates[test][metric].value, nan=-np.inf))


def layers_of(standing: Standing) -> str:
    """The layers that the folds chose."""
    return f"layer {', '.join(map(str, sorted(set(standing.layers))))}" if standing.layers else ""


def _thousands(n: int) -> str:
    return f"{n / 1000:.0f}k" if n >= 10_000 else str(n)
