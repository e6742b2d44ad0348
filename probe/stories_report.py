"""What the paper's experiment leaves behind: tables and a verdict, files, figures."""

import csv
import io
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch.loggers import TensorBoardLogger
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from probe.bootstrap import Estimate
from probe.effects import summary
from probe.files import atomic_write
from probe.pairwise import Judged, WinRate, win_rates
from probe.reporting import cell, without_nan
from probe.steering_callback import escape_cell, sample_cell
from probe.stories import StorySets
from probe.stories_figures import distributions, win_rate_plot

WRITTEN_OUT = 12
"""Prompts whose stories TensorBoard shows."""


class StoriesReport:
    """Writes everything of one run.

    Args:
        board: Where to; its folder is the run's.
        sets: The stories.
        judged: Judge -> what it said of `sets.comparisons(n_judged)`.
        told: Measure -> verdicts of `sets.comparisons()`, by number.
        n_judged: How many prompts a judge has seen.
    """

    def __init__(
        self,
        board: TensorBoardLogger,
        sets: StorySets,
        told: Mapping[str, list[Any]],
        judged: Mapping[str, Judged],
        n_judged: int,
    ) -> None:
        self.board, self.folder, self.sets, self.judged = board, Path(board.log_dir), sets, judged
        self.summaries = {name: summary(texts, sets.ground.group_of) for name, texts in sets.texts.items()}
        self.rates: dict[str, dict[tuple[str, str], WinRate]] = {
            name: win_rates(sets.comparisons(), verdicts) for name, verdicts in told.items()
        }
        self.rates |= {name: win_rates(sets.comparisons(n_judged), j.verdicts) for name, j in judged.items()}

    def write(self, console: Console) -> None:
        """Prints, and writes files and figures."""
        console.print(self.table())
        console.print(self.win_table())
        words = self.verdict()
        console.print("\n".join(words), highlight=False, markup=False)
        self._write_files(words)
        measures = ["score"] if self.sets.ground.witness == "none" else ["inventive_share", "score"]
        experiment = self.board.experiment
        experiment.add_figure("stories/distributions", distributions(self.sets.texts, measures))
        experiment.add_figure("stories/win_rates", win_rate_plot(self.rates))
        experiment.add_text("stories/samples", self.samples())
        self.board.finalize("success")

    def _write_files(self, words: list[str]) -> None:
        sets, ground = self.sets, self.sets.ground
        report = {
            "sets": dict(sets.made),
            "layer": ground.layer,
            "cosine_with_other_groups": ground.cosine,
            "sampling": asdict(ground.how),
            "direction": ground.direction.provenance,
            "results": {name: {m: asdict(e) for m, e in of_set.items()} for name, of_set in self.summaries.items()},
            "share_of_gap": {name: asdict(e) for name, e in sets.shares().items()},
            "steered_less_control": {
                n: {"difference": asdict(e), "p_holm": p} for n, (e, p) in sets.beyond_controls().items()
            },
            "win_rates": [
                {"by": by, "first": a, "second": b, **asdict(rate)}
                for by, of_pair in self.rates.items()
                for (a, b), rate in of_pair.items()
            ],
            "judges": {
                name: {"replies": j.n_replies, "unreadable": j.n_unreadable, "first_named": j.first_named}
                for name, j in self.judged.items()
            },
            "verdict": words,
        }
        text = json.dumps(without_nan(report), indent=2, allow_nan=False) + "\n"
        atomic_write(self.folder / "stories.json", lambda path: path.write_text(text))
        sheet = io.StringIO()
        writer = csv.DictWriter(sheet, ["set", "measure", "value", "lower", "upper", "n", "n_groups"])
        writer.writeheader()
        writer.writerows(
            {"set": name, "measure": m, **asdict(e)}
            for name, of_set in self.summaries.items()
            for m, e in of_set.items()
        )
        atomic_write(self.folder / "stories.csv", lambda path: path.write_text(sheet.getvalue()))
        lines = "".join(json.dumps(asdict(t)) + "\n" for texts in sets.texts.values() for t in texts)
        atomic_write(self.folder / "texts.jsonl", lambda path: path.write_text(lines))

    def table(self) -> Table:
        """The sets side by side."""
        ground = self.sets.ground
        few = " (too few groups)" if Estimate(0, 0, 0, 0, len(set(ground.groups))).too_few_groups else ""
        title = f"{len(ground.prompts)} held-out prompts, {len(set(ground.groups))} groups, 95 % intervals{few}"
        table = Table(box=SIMPLE_HEAD, title=title)
        for name in ("", *self.summaries):
            table.add_column(name)
        shares = self.sets.shares()
        table.add_row("share of the gap", *(cell(shares[n]) if n in shares else "" for n in self.summaries))
        for measure in self.summaries["uncreative"]:
            estimates = [of_set[measure] for of_set in self.summaries.values()]
            if np.isfinite([e.value for e in estimates]).any():
                table.add_row(measure.replace("_", " "), *map(cell, estimates))
        return table

    def samples(self) -> str:
        """Markdown: the stories of the first prompts, set below set."""
        lines = ["| prompt | set | story |", "|---|---|---|"]
        for i, prompt in enumerate(self.sets.ground.prompts[:WRITTEN_OUT]):
            for name, texts in self.sets.texts.items():
                lines.append(f"| {escape_cell(prompt)} | {name} | {sample_cell(texts[i])} |")
        return "\n".join(lines)

    def win_table(self) -> Table:
        """Which set wins against which, by each judge."""
        table = Table(box=SIMPLE_HEAD, title="Comparisons won by the first set, prompt by prompt; ties count half")
        for name in ("", *self.rates):
            table.add_column(name.replace("_", " "))
        for a, b in next(iter(self.rates.values())):
            rates = [of_pair[a, b] for of_pair in self.rates.values()]
            table.add_row(f"{a} v. {b}", *(_won(rate) for rate in rates))
        return table

    def verdict(self) -> list[str]:
        """Where steering stands among the sets, how sure that is, and what it does not show."""
        sets, ground = self.sets, self.sets.ground
        by = "the witness" if ground.witness != "none" else "the clean re-score (no witness)"
        of = {name: of_set[ground.told_by] for name, of_set in self.summaries.items()}
        order = sorted(of, key=lambda name: -np.nan_to_num(of[name].value, nan=-np.inf))
        shares = sets.shares()
        told = ", ".join(f"{name} {share}" for name, share in shares.items())
        lines = [f"{name}: {made}." for name, made in sets.made.items()]
        lines += [
            f"Verdict: by {by} the sets rank {' > '.join(f'{name} {of[name].value:.2f}' for name in order)}.",
            f"Of the way from uncreative to creative prompts go: {told}.",
        ]
        for name, (difference, p) in sets.beyond_controls().items():
            word = (
                "exceed"
                if difference.lower > 0
                else "fall behind"
                if difference.upper < 0
                else "are not told apart from"
            )
            how_sure = "" if np.isnan(p) else f", p {'< 0.001' if p < 0.001 else f'= {p:.3f}'} after Holm"
            lines.append(f"The steered texts {word} those of `{name}`: {difference}{how_sure}.")
        for name, judge in self.judged.items():
            if judge.n_unreadable == judge.n_replies:
                lines.append(
                    f"{name} gave no readable reply to {judge.n_replies} questions: as a judge it says nothing."
                )
                continue
            lines.append(
                f"{name}: {judge.n_unreadable} of {judge.n_replies} replies were unreadable and are not scored; it named the "
                f"text shown first in {judge.first_named:.2f} of the others."
            )
        lines.append(
            f"The direction that scores the texts has cosine {ground.cosine:.2f} with the one that steers: near 1 they are one "
            "vector, and the re-score proves nothing alone."
        )
        lines.append(
            "What it does not show: that people find these stories more creative; for that ask them, with --ballot."
        )
        return lines


def _won(rate: WinRate) -> str:
    told = cell(rate.rate)
    return told + (f"\n[dim]{rate.n_unread} unread[/dim]" if rate.n_unread else "")
