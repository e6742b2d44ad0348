"""What the paper's experiment leaves behind: tables and a verdict, files, figures."""

from dataclasses import asdict
from pathlib import Path

import numpy as np
from lightning.pytorch.loggers import TensorBoardLogger
from rich.table import Table
from rich.text import Text

from probe.data.concept import less, side
from probe.files import write_csv, write_json, write_json_lines
from probe.metrics.bootstrap import FEW_GROUPS, Estimate
from probe.metrics.pairwise import Verdicts, WinRate, win_rates
from probe.show import DIGITS, cell, draw, figures_table, p_value
from probe.shown.escapes import markdown
from probe.shown.terminal import Terminal
from probe.steering.effects import not_apart, summary
from probe.steering.samples import sample_cell
from probe.steering.witness import SCORE
from probe.verbs.stories.figures import distributions, win_rate_plot
from probe.verbs.stories.sets import StorySets

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
        self.judged: dict[str, Verdicts] = {}
        self.rates: dict[str, dict[tuple[str, str], WinRate]] = {
            measure: win_rates(sets.comparisons(), sets.told(measure)) for measure in sets.ground.measures
        }
        texts = (text.record() for of_set in sets.texts.values() for text in of_set)
        write_json_lines(self.folder / "texts.jsonl", texts)

    def add_judge(self, name: str, judged: Verdicts, n_prompts: int) -> None:
        """Takes what a judge said of the comparisons of the first prompts."""
        self.judged[name] = judged
        self.rates[name] = win_rates(self.sets.comparisons(n_prompts), judged.verdicts)

    def write(self, console: Terminal) -> None:
        """Writes the files, and prints."""
        words = self.verdict()
        self._write_files(words)
        console.print(self.table())
        console.print(self.win_table())
        console.print("\n".join(words))

    def draw(self) -> None:
        """Leaves figures and samples for TensorBoard."""
        shown = {
            "distributions": distributions(self.sets.texts, self.sets.ground.measures),
            "win_rates": win_rate_plot(self.rates),
        }
        for name, figure in shown.items():
            draw(figure, f"stories/{name}", self.folder, [self.board])
        self.board.experiment.add_text("stories/samples", self.samples())
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
        """How far each set goes, and at what cost; the other measures are in stories.csv."""
        ground = self.sets.ground
        n_groups = len(set(ground.groups))
        few = " (too few groups)" if n_groups < FEW_GROUPS else ""
        title = f"{len(ground.prompts)} held-out prompts, {n_groups} groups, 95 % intervals{few}"
        shares = self.sets.shares
        rows: list[list[Text | str]] = []
        for name, of_set in self.summaries.items():
            told = [cell(of_set[measure], DIGITS.get(measure, 2)) for measure in (ground.told_by, "extra_nll")]
            rows.append([side(name, ground.concept), cell(shares[name]) if name in shares else "", *told])
        header = ["set", "of the way", self._by(ground.told_by), "extra NLL"]
        return figures_table(title, header, rows)

    def samples(self) -> str:
        """Markdown: the stories of the first prompts, set below set; in a table the names of the sets would be broken up."""
        lines = []
        for i, prompt in enumerate(self.sets.ground.prompts[:WRITTEN_OUT]):
            lines.append(f"#### {markdown(prompt)}")
            for name, texts in self.sets.texts.items():
                lines.append(
                    f"##### {markdown(side(name, self.sets.ground.concept))}\n\n{sample_cell(texts[i], self.sets.ground.told_by)}"
                )
        return "\n\n".join(lines)

    def win_table(self) -> Table:
        """Which set wins against which, by each judge."""
        rows: list[list[Text | str]] = [
            [f"{a} v. {b}", *(_won(of_pair.get((a, b))) for of_pair in self.rates.values())]
            for a, b in next(iter(self.rates.values()))
        ]
        title = "Comparisons won by the first set, prompt by prompt; ties count half"
        return figures_table(title, ["", *map(self._by, self.rates)], rows)

    def _by(self, name: str) -> str:
        """How a measure that tells, or a judge, is called at the head of a column."""
        return {self.sets.ground.told_by: "by the witness", SCORE: "by the clean re-score"}.get(name, name)

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
        ]
        lines += not_apart(sets.gap, ground.concept) or [
            f"Of the way from {less(ground.concept)} to {ground.concept} prompts go: {told}."
        ]
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
            f"What it does not show: that people find these stories more {ground.concept}; for that ask them, with --ballot."
        )
        return lines


def _stand(difference: Estimate, p: float) -> str:
    """In words; below 20 groups there is no p, and the estimate says so itself."""
    if not (p < 0.05 or (np.isnan(p) and (difference.lower > 0 or difference.upper < 0))):
        return "are not told apart from those of"
    return "exceed those of" if difference.value > 0 else "fall behind those of"


def _how_sure(p: float) -> str:
    return "" if np.isnan(p) else f", p {p_value(p)} after Holm"


def _won(rate: WinRate | None) -> Text:
    if rate is None:
        return Text("-")
    return cell(rate.rate).append(f"\n{rate.n_unread} unread" if rate.n_unread else "", "dim")
