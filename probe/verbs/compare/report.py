"""What a comparison leaves behind: a table for eyes, JSON, CSV and Markdown for programs, figures for TensorBoard."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch.loggers import TensorBoardLogger
from matplotlib.figure import Figure

from probe.files import atomic_write, write_csv, write_json
from probe.metrics.bootstrap import FEW_GROUPS, holm
from probe.metrics.people import Agreement, agreement, in_words, rating_matrix
from probe.show import draw
from probe.shown.escapes import markdown
from probe.shown.terminal import Terminal
from probe.verbs.compare import figures
from probe.verbs.compare.comparison import LMResult
from probe.verbs.compare.crossfit import CrossFit
from probe.verbs.compare.standings import Standing
from probe.verbs.compare.table import Adjusted, standings_grid, transfer_grid, value_of, within_grids
from probe.version import library_versions

NOT_SHOWN = (
    "What this does not show: that what ranks these texts is what people call {concept}, nor that any of these directions "
    "causes anything when it is added; the rated stories and the steering say more on either."
)


class ComparisonReport:
    """Takes what each LM gave, corrects the family of tests, and writes everything."""

    def __init__(self, output: str, reference: str, crossfit: CrossFit, seed: int, results: Sequence[LMResult]) -> None:
        self.board = TensorBoardLogger(output, name="", default_hp_metric=False)
        self.folder = Path(self.board.log_dir)
        self.reference, self.crossfit, self.seed = reference, crossfit, seed
        self.test, self.metric = crossfit.judged_on, crossfit.metric_of(crossfit.judged_on)
        self.results = results

    def _figures(self, result: LMResult) -> None:
        def log(tag: str, figure: Figure) -> None:
            draw(figure, tag, self.folder, [self.board])

        names = [s.name for s in result.standings]
        log(
            f"{result.name}/layers", figures.curves_over_layers(result.curves, result.standings, self.test, self.metric)
        )
        log(f"{result.name}/intervals", figures.interval_plot(result.standings, self.test, self.metric))
        log(f"{result.name}/instruction_or_text", figures.source_plot(result.standings))
        if result.rocs:
            log(f"{result.name}/roc", figures.roc_plot(result.rocs, names, self.test))
        if result.geometry:
            log(f"{result.name}/geometry", figures.geometry_plot(result.geometry))
        if result.transfer:
            log(f"{result.name}/transfer", figures.transfer_plot(result.transfer))

    def write(self, console: Terminal) -> None:
        """Writes the files, prints tables and verdict, and draws; what can fail comes last."""
        adjusted = self.adjusted()
        grids = []
        for result in self.results:
            grids.append(standings_grid(result, self.crossfit, self.reference, adjusted))
            grids += within_grids(result) + ([transfer_grid(result)] if result.transfer else [])
        words = [*self.footer(), *self.verdict(adjusted)]
        text = "\n\n".join([*(grid.markdown() for grid in grids), *map(markdown, words)]) + "\n"
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(self.folder / "compare.json", self.as_json(adjusted))
        write_csv(self.folder / "compare.csv", list(self.records()))
        atomic_write(self.folder / "compare.md", lambda path: path.write_text(text, encoding="utf-8"))
        for grid in grids:
            console.print(grid.table())
        console.print("\n".join(words), highlight=False, markup=False)
        for result in self.results:
            self._figures(result)
        self.board.experiment.add_text("table", text)
        self.board.finalize("success")
        console.print(
            f"\nEverything is in {self.folder}: compare.json, compare.csv, compare.md (the whole tables), figures/."
        )
        console.print(f"Next: tensorboard --logdir {self.folder}")

    def adjusted(self) -> Adjusted:
        """Holm-adjusted p by (LM, contestant), over the one family: all contestants against the reference, all LMs."""
        family = [s for result in self.results for s in result.standings if s.difference]
        return dict(zip([(s.lm, s.name) for s in family], holm([s.p for s in family]), strict=True))

    # -- in words ------------------------------------------------------------------------------------------------

    def footer(self) -> list[str]:
        """What the numbers are, and where the variance of the scores comes from."""
        sizes = {test: (len(t.rows), len({row.group for row in t.rows})) for test, t in self.crossfit.tests.items()}
        lines = [
            "Intervals: 95 % group bootstrap, within folds; of random directions the 5th to the 95th percentile. Judged by "
            + ", ".join(f"{test} ({n} texts, {groups} groups)" for test, (n, groups) in sizes.items())
            + ".",
            f"p: paired group bootstrap of the difference in {self.metric.replace('_', ' ')} on {self.test}, Holm over the "
            f"{sum(np.isfinite(p) for p in self.adjusted().values())} contestants and LMs; none below {FEW_GROUPS} groups.",
        ]
        lines += [f"{test}: {words}." for test, agreed in self.agreement().items() for words in [in_words(agreed)]]
        for result in self.results:
            told = [s for s in result.standings if s.sources and np.isfinite(s.sources["text"].value)]
            if told:
                shares = ", ".join(f"{s.name} {_percent(s, 'instruction')}/{_percent(s, 'text')}" for s in told)
                lines.append(f"{result.name}, variance due to instruction/text (teacher-forced 2 x 2): {shares}.")
            if result.geometry:
                lines += _geometry_words(result)
            lines += [f"{result.name}, {s.name}: {s.note}." for s in result.standings if s.note]
            lines += [
                f"{result.name}, {s.name}: prefers the first of two texts by {bias:+.2f} log odds on {test}."
                for s in result.standings
                for test, bias in s.position_bias.items()
                if np.isfinite(bias)
            ]
        return lines

    def agreement(self) -> dict[str, Agreement]:
        """Of each test set that several people rated, how far they agree."""
        agreements: dict[str, Agreement] = {}
        for test, of in self.crossfit.tests.items():
            stories = [row for row in of.rows if row.raters]
            agreed = agreement(rating_matrix([row.raters for row in stories]), [row.group for row in stories])
            agreements |= {test: agreed} if agreed else {}
        return agreements

    def verdict(self, adjusted: Adjusted) -> list[str]:
        """Which contestant is best on each LM, and which differ from the reference beyond chance."""
        lines = []
        for result in self.results:
            best = max(result.standings, key=lambda s: value_of(s, self.test, self.metric))
            by_name = {s.name: s for s in result.standings}
            first, reference = (
                best.estimates[self.test][self.metric],
                by_name[self.reference].estimates[self.test][self.metric],
            )
            lines.append(
                f"Verdict, {result.name}: {best.name} ranks {self.test} best ({self.metric.replace('_', ' ')} {first}); "
                f"{self.reference} reaches {reference}."
            )
            for word, sign in (("better", 1), ("worse", -1)):
                told = [
                    s
                    for s in result.standings
                    if s.difference and adjusted[s.lm, s.name] < 0.05 and sign * s.difference.value > 0
                ]
                lines.append(
                    f"  Told apart from {self.reference} as {word}: "
                    + (", ".join(f"{s.name} by {abs(s.difference.value):.2f}" for s in told if s.difference) or "none")
                    + "."
                )
            lines += [
                f"  {s.name}: 95 % of them stay below {band.upper:.2f}, {self.reference} reaches {reference.value:.2f}."
                for s in result.standings
                if s.is_band and (band := s.estimates[self.test][self.metric])
            ]
        return [*lines, NOT_SHOWN.format(concept=self.crossfit.concept)]

    # -- for programs -------------------------------------------------------------------------------------------

    def as_json(self, adjusted: Adjusted) -> dict[str, Any]:
        """Everything."""
        return {
            "reference": self.reference,
            "judged_on": self.test,
            "metric": self.metric,
            "folds": self.crossfit.n_folds,
            "agreement": {test: asdict(agreed) for test, agreed in self.agreement().items()},
            "seed": self.seed,
            "versions": library_versions(),
            "lms": {
                r.name: {
                    "fingerprint": r.fingerprint,
                    "fits": r.n_fits,
                    "fitted_now": r.n_fitted,
                    "standings": [asdict(s) | {"p_holm": adjusted.get((s.lm, s.name))} for s in r.standings],
                    "curves": {name: {k: asdict(e) for k, e in curve.items()} for name, curve in r.curves.items()},
                    "transfer": {
                        a: {b: {n: asdict(e) for n, e in c.items()} for b, c in d.items()}
                        for a, d in r.transfer.items()
                    },
                    "geometry": _geometry_json(r),
                }
                for r in self.results
            },
        }

    def records(self) -> Iterator[dict[str, Any]]:
        """One flat record per number."""
        for result in self.results:
            for s in result.standings:
                parts = {test: {f"within: {p}": e for p, e in of.items()} for test, of in s.within.items()}
                for test, by_metric in s.estimates.items():
                    for metric, estimate in (by_metric | parts.get(test, {})).items():
                        yield {"lm": s.lm, "scorer": s.name, "test": test, "metric": metric, **asdict(estimate)}


def _geometry_words(result: LMResult) -> list[str]:
    geometry = result.geometry
    assert geometry is not None
    half = ", ".join(f"{name} {geometry.split_half[i].max():.2f}" for i, name in enumerate(geometry.names))
    lines = [f"{result.name}, cosine of directions from two halves of the groups, at the steadiest layer: {half}."]
    for name, (layer, shares) in geometry.shift_share.items():
        along = ", ".join(f"{other} {100 * share:.0f} %" for other, share in zip(geometry.names, shares, strict=True))
        lines.append(
            f"{result.name}, of the mean shift of {name} at layer {layer} lies along the direction of: {along}."
        )
    return lines


def _geometry_json(result: LMResult) -> dict[str, Any] | None:
    geometry = result.geometry
    if geometry is None:
        return None
    return {
        "names": list(geometry.names),
        "layers": list(geometry.layers),
        "cosine": geometry.cosine.tolist(),
        "split_half": geometry.split_half.tolist(),
        "shift_share": {
            n: {"layer": layer, "shares": shares.tolist()} for n, (layer, shares) in geometry.shift_share.items()
        },
    }


def _percent(standing: Standing, source: str) -> str:
    return f"{100 * standing.sources[source].value:.0f} %"
