"""What a run leaves behind: figures in TensorBoard, metrics as JSON and CSV, the direction, and a verdict in words."""

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import lightning as L
import numpy as np
from lightning.pytorch.callbacks import BasePredictionWriter
from lightning.pytorch.loggers import TensorBoardLogger
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from probe.evaluation import EvaluationSet
from probe.figures import layer_curve, score_histogram, steering_curve
from probe.files import atomic_write
from probe.metrics import Estimate
from probe.scorers.base import CONTROLS, HasDirection, Scorer
from probe.steering import SteeringCallback


class RunReport(L.Callback):
    """Logs figures after each evaluation, and writes and prints the report of a run."""

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Figures of this epoch's validation."""
        if not trainer.sanity_checking:
            self._figures(trainer, pl_module, "validation")

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Figures of the test, and this run's row in the table of hyper-parameters."""
        self._figures(trainer, pl_module, "test")
        assert isinstance(pl_module, Scorer)
        settings = {**pl_module.identity(), "lm": pl_module.lm_spec.model, "layer": pl_module.chosen_layer}
        shown = {key: settings[key] for key in ("method", "span", "pooling", "lm", "layer")}
        chosen = {m: e[f"layer_{pl_module.chosen_layer}"] for m, e in pl_module.results["test"].estimates.items()}
        for logger in _boards(trainer):
            logger.log_hyperparams(shown, {f"hp/test_{metric}": estimate.value for metric, estimate in chosen.items()})

    def _figures(self, trainer: L.Trainer, scorer: L.LightningModule, split: Literal["validation", "test"]) -> None:
        assert isinstance(scorer, Scorer)
        layers, step, name = scorer.extractor.layers, trainer.global_step, "val" if split == "validation" else "test"
        judge, result = EvaluationSet(scorer.data.rows[split]), scorer.results[split]
        scores = scorer.scored[split][judge.judged, layers.index(scorer.chosen_layer)]
        steering = [c for c in vars(trainer)["callbacks"] if isinstance(c, SteeringCallback) and c.samples]
        for board in (logger.experiment for logger in _boards(trainer)):
            for metric in result.estimates:
                figure = layer_curve(result, metric, layers, scorer.chosen_layer, scorer.bands[split])
                board.add_figure(f"{name}/layers/{metric}", figure, step)
            histogram = score_histogram(scores, judge.truth, judge.middle, scorer.chosen_layer)
            board.add_figure(f"{name}/scores", histogram, step)
            board.add_histogram(f"{name}/scores_lower_half", scores[judge.truth < judge.middle], step)
            board.add_histogram(f"{name}/scores_upper_half", scores[judge.truth > judge.middle], step)
            for callback in steering if split == "validation" else ():
                for measure, curve in callback.curves().items():
                    board.add_figure(
                        f"steer/curves/{measure}", steering_curve(measure, curve, callback.strength_unit), step
                    )


def _boards(trainer: L.Trainer) -> list[TensorBoardLogger]:
    return [logger for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]


class ScoreWriter(BasePredictionWriter):
    """Writes what `predict` scored as `scores.jsonl`, one line per text; each further process has its own file."""

    def write_on_epoch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, predictions: Sequence[Any], batch_indices: Sequence[Any]
    ) -> None:
        """Writes the scores at the chosen layer."""
        assert isinstance(pl_module, Scorer)
        assert trainer.log_dir is not None
        column = pl_module.extractor.layers.index(pl_module.chosen_layer)
        lines = [
            json.dumps({**asdict(pl_module.data.rows["test"][row]), "layer": pl_module.chosen_layer, "score": score})
            for batch in predictions
            for row, score in zip(batch["row"].tolist(), batch["score"][:, column].tolist(), strict=True)
        ]
        name = f"scores-{trainer.global_rank}.jsonl" if trainer.world_size > 1 else "scores.jsonl"
        path = Path(trainer.log_dir) / name
        atomic_write(path, lambda temporary: temporary.write_text("\n".join(lines) + "\n"))
        Console().print(f"{len(lines)} scores are in {path}.")


def write_report(folder: Path, scorer: Scorer, steering: SteeringCallback | None) -> dict[str, Any]:
    """Writes `metrics.json`, `metrics.csv` and, where the scorer has one, `direction/`; returns the metrics."""
    report: dict[str, Any] = {
        "provenance": scorer.provenance(),
        "chosen_layer": scorer.chosen_layer,
        "reads": asdict(scorer.extractor.reads),
        "margins_on_test": {name: asdict(e) for name, e in scorer.margins.items()},
        "random_directions": {
            split: dict(zip(("p5", "p50", "p95"), np.nanpercentile(band, [5, 50, 95]).tolist(), strict=True))
            for split, band in scorer.bands.items()
        },
        "people": asdict(scorer.people) if scorer.people else None,
        "results": {split: result.as_records() for split, result in scorer.results.items()},
    }
    if steering and steering.samples:
        report["steering"] = {"cosine_with_other_groups": steering.cosine, "curves": steering.curves()}
    records = [{"split": split, **r} for split, rows in report["results"].items() for r in rows]
    table = io.StringIO()
    writer = csv.DictWriter(table, list(records[0]))
    writer.writeheader()
    writer.writerows(records)
    # JSON has no nan: what could not be computed is null.
    text = json.dumps(_without_nan(report), indent=2, allow_nan=False) + "\n"
    atomic_write(folder / "metrics.json", lambda path: path.write_text(text))
    atomic_write(folder / "metrics.csv", lambda path: path.write_text(table.getvalue()))
    if isinstance(scorer, HasDirection):
        scorer.direction().save(folder / "direction")
    return report


def _without_nan(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _without_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value


def print_table(console: Console, scorer: Scorer, split: Literal["validation", "test"]) -> None:
    """Prints every metric of one split, a row per layer, control and the band of random directions."""
    result = scorer.results[split]
    judged = (
        f"{result.n_stories} rated stories" if result.n_stories else f"{2 * result.n_pairs} texts of held-out pairs"
    )
    estimate = result.estimates["spearman"][f"layer_{scorer.chosen_layer}"]
    few = f" (too few groups: {estimate.n_groups})" if estimate.too_few_groups else ""
    title = (
        f"{type(scorer).__name__} read from {scorer.span}s, on {split}: {judged}, 95 % group-bootstrap intervals{few}"
    )
    table = Table(box=SIMPLE_HEAD, title=title)
    table.add_column("layer")
    shown = {m: e for m, e in result.estimates.items() if np.isfinite([x.value for x in e.values()]).any()}
    for metric in shown:
        table.add_column(metric.replace("_", " "))
    for name in result.estimates["spearman"]:
        layer = name.removeprefix("layer_").replace("_", " ")
        chosen = layer == str(scorer.chosen_layer)
        cells = [_cell(columns[name]) for columns in shown.values()]
        table.add_row(f"{layer} (chosen)" if chosen else layer, *cells, style="bold" if chosen else None)
    p5, p95 = np.nanpercentile(scorer.bands[split], [5, 95])
    table.add_row("200 random", f"{p5:.2f} to {p95:.2f}\n[dim]5-95 %[/dim]")
    console.print(table)


def print_report(console: Console, folder: Path, scorer: Scorer, steering: SteeringCallback | None) -> None:
    """Prints the table, the verdict, two dull prompts with and without steering, and what to do next."""
    print_table(console, scorer, "test")
    console.print(verdict(scorer), highlight=False)
    if steering and steering.samples:
        _print_stories(console, steering)
    reads = scorer.extractor.reads
    console.print(f"\nThe LM read {reads.texts} texts ({reads.tokens} tokens) for this; the rest was remembered.")
    console.print(f"Everything is in {folder}: metrics.json, metrics.csv, direction/, steering.jsonl, config.yaml.")
    console.print(f"Next: tensorboard --logdir {folder.parent}", highlight=False)


def _cell(estimate: Estimate) -> str:
    interval = (
        "" if np.isnan(estimate.lower) else f"\n[dim]{escape(f'[{estimate.lower:.2f}, {estimate.upper:.2f}]')}[/dim]"
    )
    return "-" if np.isnan(estimate.value) else f"{estimate.value:.2f}{interval}"


def verdict(scorer: Scorer) -> str:
    """Says in words which layer was chosen, what it beats on test, by how much, and what that does not show."""
    name = f"layer_{scorer.chosen_layer}"
    estimates = {metric: columns[name] for metric, columns in scorer.results["test"].estimates.items()}
    rho = estimates["spearman"]
    p95 = float(np.nanpercentile(scorer.bands["test"], 95))
    lines = [
        f"Verdict: layer {scorer.chosen_layer}, chosen on validation, ranks the test texts with Spearman {rho} "
        f"({rho.n_groups} groups); 95 % of random directions given the same choices stay below {p95:.2f}, "
        f"so it {'beats' if rho.lower > p95 else 'does NOT clearly beat'} them."
    ]
    for control in CONTROLS:
        margin = scorer.margins[control]
        if np.isnan(margin.value):
            lines.append(f"It cannot be compared with {control.replace('_', ' ')}, which ranks nothing here.")
            continue
        word = "beats" if margin.lower > 0 else "loses to" if margin.upper < 0 else "is not told apart from"
        lines.append(f"It {word} {control.replace('_', ' ')}: Spearman higher by {margin}.")
    low, high = estimates["spearman_low"], estimates["spearman_high"]
    if np.isfinite(low.value):
        lines.append(f"Within the lower and the upper half of the truth: {low} and {high}.")
    if scorer.people:
        agreement = scorer.people.agreement
        lines.append(
            f"{agreement.n_raters} raters agree with Krippendorff's alpha {agreement.alpha}, one with the mean of the others "
            f"by Spearman {agreement.one_against_others}: about what any score can reach. With raters resampled too, "
            f"ours is {scorer.people.spearman}."
        )
    if "preference_accuracy" in estimates:
        lines.append(
            f"It shares people's preferences in {estimates['preference_accuracy']} of {estimates['preference_accuracy'].n}."
        )
    length = estimates["length"]
    if np.isfinite(length.value):
        artefact = ": a length artefact is likely." if abs(length.value) > 0.3 else "."
        lines.append(f"Its score follows length with {length}{artefact}")
    lines.append(
        "It does not show that the direction causes anything, nor that it is creativity a person would recognise: "
        "for that look at the steered texts and their witness, and at ratings by people."
    )
    return "\n".join(lines)


def _print_stories(console: Console, steering: SteeringCallback) -> None:
    samples = {(s.prompt, s.strength): s for s in steering.samples}
    strengths = (0.0, steering.strengths[-1])
    console.print(
        f"\nSteering at layer {steering.samples[0].layer} (clean re-score with a direction from other groups, cosine "
        f"{steering.cosine:.2f} with the one that steers; near 1 they are one vector and prove nothing alone):"
    )
    for prompt in list(dict.fromkeys(s.prompt for s in steering.samples))[:2]:
        console.print(f"\n[bold]{escape(prompt)}[/bold]", highlight=False)
        for strength in strengths:
            sample = samples[prompt, strength]
            witness = "" if sample.inventive_share is None else f", inventive {sample.inventive_share:.2f}"
            label = "plain" if strength == 0 else f"steered {strength:g} {steering.strength_unit}"
            console.print(
                f"  {label} (score {sample.score:.3f}, extra NLL {sample.extra_nll:+.2f}{witness}):", highlight=False
            )
            console.print(f"    {escape(sample.text)}", highlight=False)
