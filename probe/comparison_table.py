"""The table of a comparison, a row per contestant: for the terminal and for a README."""

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from probe.comparison import LMResult
from probe.crossfit import CrossFit
from probe.metrics import Estimate
from probe.standings import Standing

Adjusted = dict[tuple[str, str], float]
"""Holm-adjusted p by (LM, contestant)."""
Cell = tuple[str, str]
"""A value and its interval."""


def _rows(
    result: LMResult, crossfit: CrossFit, reference: str, adjusted: Adjusted
) -> tuple[list[str], list[list[Cell]]]:
    shown = [test for test in crossfit.tests if test == crossfit.main or test not in crossfit.contrasts]
    judged = crossfit.judged_on
    header = ["scorer", *(f"{test} {crossfit.metric_of(test).replace('_', ' ')}" for test in shown)]
    header += [f"{judged} auroc", f"{judged} length", f"less {reference}", "p (Holm)", "learned", "fit s", "texts/s"]
    rows = []
    for s in result.standings:
        cells = [_cell(s.estimates[test].get(crossfit.metric_of(test))) for test in shown]
        cells += [_cell(s.estimates[judged].get(metric)) for metric in ("auroc", "length")]
        cells += [_cell(s.difference, "+"), (_p(adjusted.get((s.lm, s.name))), "")]
        cost = (_thousands(s.n_trainable), f"{s.fit_seconds:.1f}", f"{s.texts_per_second:.0f}")
        rows.append([(s.name, layers_of(s)), *cells, *((c, "") for c in cost)])
    return header, rows


def table(result: LMResult, crossfit: CrossFit, reference: str, adjusted: Adjusted) -> Table:
    """For the terminal; the best contestant is bold."""
    header, rows = _rows(result, crossfit, reference, adjusted)
    shown = Table(box=SIMPLE_HEAD, title=f"{result.name}: cross-fitted over {crossfit.n_folds} folds of groups")
    for name in header:
        shown.add_column(name)
    test, metric = crossfit.judged_on, crossfit.metric_of(crossfit.judged_on)
    best = max(result.standings, key=lambda s: value_of(s, test, metric))
    for standing, row in zip(result.standings, rows, strict=True):
        style = "bold" if standing is best else None
        shown.add_row(*(f"{escape(value)}\n[dim]{escape(interval)}[/dim]" for value, interval in row), style=style)
    return shown


def markdown(result: LMResult, crossfit: CrossFit, reference: str, adjusted: Adjusted) -> str:
    """For a README."""
    header, rows = _rows(result, crossfit, reference, adjusted)
    lines = [f"**{result.name}**", "", f"| {' | '.join(header)} |", "|" + "---|" * len(header)]
    lines += [f"| {' | '.join(' '.join(cell).strip() for cell in row)} |" for row in rows]
    return "\n".join(lines)


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
