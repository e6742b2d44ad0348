"""The table of a comparison, a row per contestant: for the terminal and for a README."""

from dataclasses import dataclass

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from probe.bootstrap import Estimate
from probe.comparison import LMResult
from probe.crossfit import CrossFit
from probe.standings import Standing

Adjusted = dict[tuple[str, str], float]
"""Holm-adjusted p by (LM, contestant)."""
Cell = tuple[str, str]
"""A value and its interval."""


@dataclass(frozen=True)
class Grid:
    """A title, a header and rows of cells; one row may be told from the others."""

    title: str
    header: list[str]
    rows: list[list[Cell]]
    best: int = -1

    def table(self) -> Table:
        """For the terminal."""
        shown = Table(box=SIMPLE_HEAD, title=self.title)
        for i, name in enumerate(self.header):
            shown.add_column(name, min_width=max(len(row[0][0]) for row in self.rows) if i == 0 else None)
        for i, row in enumerate(self.rows):
            cells = (f"{escape(value)}\n[dim]{escape(interval)}[/dim]" for value, interval in row)
            shown.add_row(*cells, style="bold" if i == self.best else None)
        return shown

    def markdown(self) -> str:
        """For a README."""
        lines = [f"**{self.title}**", "", f"| {' | '.join(self.header)} |", "|" + "---|" * len(self.header)]
        lines += [f"| {' | '.join(' '.join(cell).strip() for cell in row)} |" for row in self.rows]
        return "\n".join(lines)


def standings_grid(result: LMResult, crossfit: CrossFit, reference: str, adjusted: Adjusted) -> Grid:
    """A row per contestant; the best one on the set that is compared on stands out."""
    shown = [test for test in crossfit.tests if test == crossfit.main or test not in crossfit.contrasts]
    judged = crossfit.judged_on
    header = ["scorer", *(f"{test} {crossfit.metric_of(test).replace('_', ' ')}" for test in shown)]
    header += [f"{judged} auroc", f"{judged} length", f"less {reference}", "p (Holm)", "learned", "fit s", "texts/s"]
    rows = []
    for s in result.standings:
        cells = [_cell(s.estimates[test].get(crossfit.metric_of(test))) for test in shown]
        cells += [_cell(s.estimates[judged].get(metric)) for metric in ("auroc", "length")]
        cells += [_cell(s.difference, "+"), (_p(adjusted.get((s.lm, s.name))), "")]
        applies = any(value != "-" for value, _ in cells)
        cost = (_thousands(s.n_trainable), f"{s.fit_seconds:.1f}", f"{s.texts_per_second:.0f}")
        rows.append(
            [
                (s.name, layers_of(s) if applies else "not applicable"),
                *cells,
                *((c if applies else "-", "") for c in cost),
            ]
        )
    best = max(result.standings, key=lambda s: value_of(s, judged, crossfit.metric_of(judged)))
    title = f"{result.name}: cross-fitted over {crossfit.n_folds} folds of groups"
    return Grid(title, header, rows, result.standings.index(best))


def transfer_grid(result: LMResult) -> Grid:
    """AUROC of what was fitted on one set and judged on another, a row per set to fit on and contestant."""
    tests = list(next(iter(result.transfer.values())))
    names = list(next(iter(next(iter(result.transfer.values())).values())))
    rows = [
        [(name, f"fitted on {contrast}"), *(_cell(by_test[test][name]) for test in tests)]
        for name in names
        for contrast, by_test in result.transfer.items()
    ]
    return Grid(f"{result.name}: AUROC across sets, no group judged by a fit that saw it", ["scorer", *tests], rows)


def _cell(estimate: Estimate | None, sign: str = "") -> tuple[str, str]:
    if estimate is None or np.isnan(estimate.value):
        return "-", ""
    few = " too few groups" if estimate.too_few_groups else ""
    return f"{estimate.value:{sign}.2f}", f"[{estimate.lower:.2f}, {estimate.upper:.2f}]{few}"


def _p(p: float | None) -> str:
    return "-" if p is None or np.isnan(p) else "< 0.001" if p < 0.001 else f"{p:.3f}"


def value_of(standing: Standing, test: str, metric: str) -> float:
    """The number to rank contestants by; a band and what could not be computed come last."""
    return -np.inf if standing.is_band else float(np.nan_to_num(standing.estimates[test][metric].value, nan=-np.inf))


def layers_of(standing: Standing) -> str:
    """The layers that the folds chose."""
    chosen = sorted({c.removeprefix("layer_") for c in standing.chosen if c.startswith("layer_")}, key=int)
    return f"layer {', '.join(chosen)}" if chosen else ""


def _thousands(n: int) -> str:
    return f"{n / 1000:.0f}k" if n >= 10_000 else str(n)
