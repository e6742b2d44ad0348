"""What a sweep leaves behind: the setting in the direction, a table and a verdict, files, heat maps."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch.loggers import TensorBoardLogger
from rich.table import Table
from rich.text import Text

from probe.data.concept import less, side
from probe.files import write_csv, write_json, write_json_lines
from probe.lm.spec import UNITS, Budget
from probe.metrics.evaluation import band_percentiles
from probe.show import DIGITS, cell, draw, figures_table, line
from probe.shown.terminal import Terminal
from probe.steering.effects import not_apart, summary
from probe.steering.ground import Ground
from probe.verbs.sweep.figures import heat_map, pareto_plot
from probe.verbs.sweep.sweep import Cell, at_matched, pareto
from probe.verbs.sweep.trial import Outcome, Searched

MATCHED = {"strength_norm": (0.1, 0.2, 0.4), "kl": (0.003, 0.01, 0.03, 0.1, 0.3), "strength_absolute": (1.0, 2.0, 3.0)}
"""At which lengths and costs the layers are compared; the paper adds an absolute length of 3."""


class SweepReport:
    """Writes everything of one sweep."""

    def __init__(
        self, output: str, direction_folder: Path, ground: Ground, budget: Budget, searched: Searched, judged: Outcome
    ) -> None:
        self.board = TensorBoardLogger(output, name="", default_hp_metric=False)
        self.folder, self.direction_folder = Path(self.board.log_dir), direction_folder
        self.ground, self.budget, self.searched, self.judged = ground, budget, searched, judged
        self._cosines = searched.cosines(ground.direction)
        self.summaries = {name: summary(texts, ground.group_of) for name, texts in judged.texts.items()}

    def write(self, console: Terminal) -> None:
        """Writes the files, saves the setting into the direction, prints, and draws; what can fail comes last."""
        best = self.searched.recommended
        layers = list(best.setting.layers)
        setting = {
            "layer": layers[0] if len(layers) == 1 else layers,
            "strength": best.setting.strength,
            "strength_unit": best.setting.unit,
        }
        budget = {
            "budget": asdict(self.budget),
            "affordable": best.affordable,
            "tokens": self.ground.how.tokens or "all",
            "operator": best.setting.operator,
        }
        words = self.verdict()
        report = {
            "direction": str(self.direction_folder),
            "budget": asdict(self.budget),
            "recommended": setting,
            "cells": [_flat(cell) for cell in self.searched.cells],
            "unsteered": self.searched.plain,
            "pareto": [
                {"layer": cell.setting.where, "strength": cell.setting.strength} for cell in pareto(self.searched.cells)
            ],
            "matched": self.matched(),
            "gap": asdict(self.judged.gap),
            "gain": asdict(self.judged.gain),
            "random_gains": self.judged.random_gains,
            "share_of_gap": asdict(self.judged.share),
            "random_shares": self.judged.random_shares,
            "random": [
                {
                    "layer": c.setting.where,
                    "strength": c.setting.strength,
                    "cosine_with_ours": cosine,
                    "share_of_gap": share,
                }
                for (_, c), cosine, share in zip(
                    self.searched.random, self._cosines, self.judged.random_shares, strict=True
                )
            ],
            "judged": {name: {m: asdict(e) for m, e in of_set.items()} for name, of_set in self.summaries.items()},
            "verdict": words,
        }
        self.folder.mkdir(parents=True, exist_ok=True)
        write_json(self.folder / "sweep.json", report)
        write_csv(self.folder / "sweep.csv", [_flat(cell) for cell in self.searched.cells])
        write_json_lines(
            self.folder / "texts.jsonl", (t.record() for texts in self.judged.texts.values() for t in texts)
        )
        direction = self.ground.direction
        provenance = {**direction.provenance, "recommended": {**setting, **budget}}
        replace(direction, provenance=provenance).save(self.direction_folder)
        console.print(self.table())
        console.print("\n".join(words), highlight=False, markup=False)
        for measure in ("gain", *self.judged.texts["steered"][0].measures):
            if np.isfinite([cell.value(measure) for cell in self.searched.cells]).any():
                draw(heat_map(self.searched.cells, measure, best), f"sweep/{measure}", self.folder, [self.board])
        front = pareto_plot(self.searched.cells, best, self.budget.extra_nll)
        draw(front, "sweep/pareto", self.folder, [self.board])
        self.board.finalize("success")
        console.print(
            f"\nEverything is in {self.folder}: sweep.json, sweep.csv, texts.jsonl; the setting is in {self.direction_folder}."
        )
        console.print('Next: probe generate "Write a story about a town."')

    def table(self) -> Table:
        """The three sets of texts side by side, on prompts that were not searched on."""
        rows: list[list[Text | str]] = []
        for measure in next(iter(self.summaries.values())):
            cells = [cell(of_set[measure], DIGITS.get(measure, 2)) for of_set in self.summaries.values()]
            if any(shown.plain != "-" for shown in cells):
                rows.append([measure.replace("_", " "), *cells])
        title = f"{len(self.ground.prompts)} prompts that were not searched on, 95 % intervals"
        return figures_table(title, ["", *(side(name, self.ground.concept) for name in self.summaries)], rows)

    def verdict(self) -> list[str]:
        """What the recommended setting reaches, beside random directions, and where the layers differ."""
        best, share, concept = self.searched.recommended, self.judged.share, self.ground.concept
        at_setting = (
            f"layer {best.setting.where} at {best.setting.strength:g} {UNITS[best.setting.unit]} "
            f"({best.strength_absolute:.2f} absolute, {best.strength_norm:.2f} of the residual norm)"
        )
        budget = f"{self.budget.extra_nll:g} nats of extra NLL and {self.budget.repetition:g} of repetition"
        lines = [
            f"Verdict: {at_setting} has the largest gain within the budget of {budget}."
            if best.affordable
            else f"Verdict: nothing is within the budget of {budget}; {at_setting} is the cheapest.",
        ]
        reached, digits = self.judged.random_shares, 2
        if unlike := not_apart(self.judged.gap, concept):
            reached, digits = self.judged.random_gains, 3
            lines += [
                f"By {self.ground.by_whom} its texts exceed unsteered ones by {line(self.judged.gain, 3)}.",
                *unlike,
            ]
        else:
            lines.append(
                f"By {self.ground.by_whom} it goes {share} of the way from {less(concept)} to {concept} prompts "
                f"({share.n_groups} groups)."
            )
        if np.isfinite(reached).any():
            low, _, high = band_percentiles(np.array(reached))
            furthest = int(np.argmax(np.nan_to_num(reached, nan=-np.inf)))
            lines.append(
                f"{len(reached)} random directions of equal norm, each with its own search: {low:.{digits}f} to "
                f"{high:.{digits}f} (5-95 %); the one that goes furthest has cosine {self._cosines[furthest]:.2f} with ours."
            )
        lines.append(
            f"The direction that scores the texts has cosine {self.ground.cosine:.2f} with the one that steers."
        )
        places = DIGITS.get(self.ground.told_by, 2)
        for by, targets in self.matched().items():
            for target, layers in targets.items():
                if len(layers) > 1:
                    told = ", ".join(
                        f"{k}: {m['gain']:+.{places}f} for {m['extra_nll']:+.2f}" for k, m in layers.items()
                    )
                    lines.append(f"Layers at {by.replace('_', ' ')} {target} (gain for extra NLL): {told}.")
        lines.append(
            f"What it does not show: that a person would find these texts more {concept}; nor that another model has this layer."
        )
        return lines

    def matched(self) -> dict[str, dict[str, dict[str, dict[str, float]]]]:
        """The layers compared where they are equally strong, or cost the same."""
        cells = self.searched.cells
        return {by: {f"{x:g}": at_matched(cells, by, x) for x in targets} for by, targets in MATCHED.items()}


def _flat(cell: Cell) -> dict[str, Any]:
    return {
        "layer": cell.setting.where,
        "strength": cell.setting.strength,
        "strength_absolute": cell.strength_absolute,
        "strength_norm": cell.strength_norm,
        **cell.means,
        "gain": cell.gain,
        "affordable": cell.affordable,
    }
