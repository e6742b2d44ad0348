"""What the paper's experiment leaves behind: tables and a verdict, files, figures."""

from dataclasses import asdict
from pathlib import Path

import numpy as np
from lightning.pytorch.loggers import TensorBoardLogger
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from probe.bootstrap import FEW_GROUPS, Estimate
from probe.effects import DIGITS, summary
from probe.files import write_csv, write_json, write_json_lines
from probe.pairwise import Judged, WinRate, win_rates
from probe.reporting import cell
from probe.samples import escape_cell, sample_cell
from probe.stories import StorySets
from probe.stories_figures import distributions, win_rate_plot

NAMES = {"inventive_share": "by the witness", "score": "by the clean re-score"}
WRITTEN_OUT = 12
"""Prompts whose stories TensorBoard shows."""


class StoriesReport:
    """Writes everything of one run; the stories themselves at once, what is said of them later.

    Args:
        board: Where to; its folder is the run's.
        sets: The stories.
    """

    def __init__(self, board: TensorBoardLogger, sets: StorySets) -> None:
        self.board, self.folder, self.sets = board, Path(board.log_dir), sets
        self.summaries = {name: summary(texts, sets.ground.group_of) for name, texts in sets.texts.items()}
        self.judged: dict[str, Judged] = {}
        self.rates: dict[str, dict[tuple[str, str], WinRate]] = {
            measure: win_rates(sets.comparisons(), sets.told(measure)) for measure in sets.ground.measures
        }
        texts = (asdict(text) for of_set in sets.texts.values() for text in of_set)
        write_json_lines(self.folder / "texts.jsonl", texts)

    def add_judge(self, name: str, judged: Judged, n_prompts: int) -> None:
        """Takes what a judge said of the comparisons of the first prompts."""
        self.judged[name] = judged
        self.rates[name] = win_rates(self.sets.comparisons(n_prompts), judged.verdicts)

    def write(self, console: Console) -> None:
        """Prints, and writes files and figures."""
        words = self.verdict()
        self._write_files(words)
        console.print(self.table())
        console.print(self.win_table())
        console.print("\n".join(words), highlight=False, markup=False)
        experiment = self.board.experiment
        experiment.add_figure("stories/distributions", distributions(self.sets.texts, self.sets.ground.measures))
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
            "gap": asdict(sets.gap),
            "share_of_gap": {name: asdict(e) for name, e in sets.shares.items()},
            "steered_less_control": {
                n: {"difference": asdict(e), "p_holm": p} for n, (e, p) in sets.beyond_controls.items()
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
        write_json(self.folder / "stories.json", report)
        records = [
            {"set": name, "measure": m, **asdict(e)}
            for name, of_set in self.summaries.items()
            for m, e in of_set.items()
        ]
        write_csv(self.folder / "stories.csv", records)

    def table(self) -> Table:
        """The sets side by side."""
        ground = self.sets.ground
        n_groups = len(set(ground.groups))
        few = " (too few groups)" if n_groups < FEW_GROUPS else ""
        title = f"{len(ground.prompts)} held-out prompts, {n_groups} groups, 95 % intervals{few}"
        table = Table(box=SIMPLE_HEAD, title=title)
        for name in ("", *self.summaries):
            table.add_column(name)
        shares = self.sets.shares
        table.add_row("share of the gap", *(cell(shares[n]) if n in shares else "" for n in self.summaries))
        for measure in self.summaries["uncreative"]:
            estimates = [of_set[measure] for of_set in self.summaries.values()]
            if np.isfinite([e.value for e in estimates]).any():
                table.add_row(measure.replace("_", " "), *(cell(e, DIGITS.get(measure, 2)) for e in estimates))
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
            table.add_column(escape(NAMES.get(name, name)))
        for a, b in next(iter(self.rates.values())):
            table.add_row(f"{a} v. {b}", *(_won(of_pair.get((a, b))) for of_pair in self.rates.values()))
        return table

    def verdict(self) -> list[str]:
        """Where steering stands among the sets, how sure that is, and what it does not show."""
        sets, ground = self.sets, self.sets.ground
        of = {name: of_set[ground.told_by] for name, of_set in self.summaries.items()}
        order = sorted(of, key=lambda name: -np.nan_to_num(of[name].value, nan=-np.inf))
        shares = sets.shares
        told = ", ".join(f"{name} {share}" for name, share in shares.items())
        lines = [f"{name}: {made}." for name, made in sets.made.items()]
        lines += [
            f"Verdict: by {ground.by_whom} the sets rank {' > '.join(f'{name} {of[name].value:.2f}' for name in order)}.",
            f"Of the way from uncreative to creative prompts go: {told}.",
        ]
        if not (sets.gap.lower > 0 or sets.gap.upper < 0):
            lines.append(
                f"But creative and uncreative prompts are not told apart here ({sets.gap}), so that says little."
            )
        for name, (difference, p) in sets.beyond_controls.items():
            lines.append(f"The steered texts {_stand(difference, p)} `{name}`: {difference}{_how_sure(p)}.")
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


def _stand(difference: Estimate, p: float) -> str:
    """In words; below 20 groups there is no p, and the estimate says so itself."""
    if not (p < 0.05 or (np.isnan(p) and (difference.lower > 0 or difference.upper < 0))):
        return "are not told apart from those of"
    return "exceed those of" if difference.value > 0 else "fall behind those of"


def _how_sure(p: float) -> str:
    return "" if np.isnan(p) else f", p {'< 0.001' if p < 0.001 else f'= {p:.3f}'} after Holm"


def _won(rate: WinRate | None) -> str:
    if rate is None:
        return "-"
    return cell(rate.rate) + (f"\n[dim]{rate.n_unread} unread[/dim]" if rate.n_unread else "")
