"""What a run leaves behind: figures in TensorBoard, metrics as JSON and CSV, the direction, and a verdict in words."""

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

from probe.bootstrap import Estimate
from probe.evaluation import EvaluationSet
from probe.figures import layer_curve, score_histogram, steering_curve
from probe.files import write_csv, write_json, write_json_lines
from probe.judging import CONTROLS, Judge, Judgement
from probe.scorers.base import HasDirection, HasShift, Scorer
from probe.scorers.lora import LoRAScorer
from probe.scorers.lora_writer import LoRAWriter
from probe.steering_callback import SteeringCallback


class RunReport(L.Callback):
    """Judges the scorer after each evaluation, and logs the numbers and their figures."""

    def __init__(self) -> None:
        self.judge = Judge()

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """This epoch's validation."""
        if not trainer.sanity_checking:
            self._log(trainer, pl_module, "validation")

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """The test, and this run's row in the table of hyper-parameters."""
        self._log(trainer, pl_module, "test")
        assert isinstance(pl_module, Scorer)
        settings = {**pl_module.identity(), "lm": pl_module.lm_spec.model, "column": pl_module.chosen}
        shown = {key: settings.get(key, "") for key in ("method", "span", "pooling", "lm", "column")}
        estimates = self.judge.judgements["test"].evaluation.estimates
        chosen = {f"hp/test_{metric}": columns[pl_module.chosen].value for metric, columns in estimates.items()}
        for board in _boards(trainer):
            board.log_hyperparams(shown, chosen)

    def _log(self, trainer: L.Trainer, scorer: L.LightningModule, split: Literal["validation", "test"]) -> None:
        assert isinstance(scorer, Scorer)
        judgement = self.judge.judge(scorer, split)
        prefix, step = "val" if split == "validation" else "test", trainer.global_step
        numbers = {
            f"{prefix}/{metric}/{name}": estimate.value
            for metric, columns in judgement.evaluation.estimates.items()
            for name, estimate in columns.items()
        }
        for logger in trainer.loggers:
            logger.log_metrics(numbers, step)
        judged = EvaluationSet(scorer.data.rows[split])
        scores = judgement.chosen[judged.judged]
        steering = [c for c in vars(trainer)["callbacks"] if isinstance(c, SteeringCallback) and c.samples]
        for board in (logger.experiment for logger in _boards(trainer)):
            for metric in judgement.evaluation.estimates if scorer.kind == "layers" else ():
                figure = layer_curve(
                    judgement.evaluation, metric, scorer.extractor.layers, scorer.chosen, judgement.band_95
                )
                board.add_figure(f"{prefix}/layers/{metric}", figure, step)
            if np.isfinite(scores).all():
                histogram = score_histogram(scores, judged.truth, judged.middle, scorer.chosen)
                board.add_figure(f"{prefix}/scores", histogram, step)
                board.add_histogram(f"{prefix}/scores_lower_half", scores[judged.truth < judged.middle], step)
                board.add_histogram(f"{prefix}/scores_upper_half", scores[judged.truth > judged.middle], step)
            for callback in steering if split == "validation" else ():
                band = callback.band()
                for measure, curve in callback.curves().items():
                    figure = steering_curve(measure, curve, callback.unit, band.get(measure, {}))
                    board.add_figure(f"steer/curves/{measure}", figure, step)


def _boards(trainer: L.Trainer) -> list[TensorBoardLogger]:
    return [logger for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]


class ScoreWriter(BasePredictionWriter):
    """Writes what `predict` scored as `scores.jsonl`, one line per text; each further process has its own file."""

    def write_on_epoch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, predictions: Sequence[Any], batch_indices: Sequence[Any]
    ) -> None:
        """Writes the scores of the chosen column."""
        assert isinstance(pl_module, Scorer)
        assert trainer.log_dir is not None
        column = pl_module.columns.index(pl_module.chosen)
        records = [
            {**asdict(pl_module.data.rows["test"][row]), "column": pl_module.chosen, "score": score}
            for batch in predictions
            for row, score in zip(batch["row"].tolist(), batch["score"][:, column].tolist(), strict=True)
        ]
        name = f"scores-{trainer.global_rank}.jsonl" if trainer.world_size > 1 else "scores.jsonl"
        path = Path(trainer.log_dir) / name
        write_json_lines(path, records)
        Console().print(f"{len(records)} scores are in {path}.")


def write_report(folder: Path, scorer: Scorer, judge: Judge, steering: SteeringCallback | None) -> dict[str, Any]:
    """Writes `metrics.json`, `metrics.csv` and, where the scorer has one, `direction/`; returns the metrics."""
    judgements, test = judge.judgements, judge.judgements.get("test")
    report: dict[str, Any] = {
        "provenance": scorer.provenance(),
        "chosen": scorer.chosen,
        "reads": asdict(scorer.extractor.reads),
        "margins_on_test": {name: asdict(e) for name, e in test.margins.items()} if test else {},
        "random_directions": {
            split: dict(zip(("p5", "p50", "p95"), np.nanpercentile(j.band, [5, 50, 95]).tolist(), strict=True))
            for split, j in judgements.items()
        },
        "people": asdict(test.people) if test and test.people else None,
        "results": {split: j.evaluation.as_records() for split, j in judgements.items()},
    }
    if steering and steering.samples:
        curves = {m: {x: asdict(e) for x, e in curve.items()} for m, curve in steering.curves().items()}
        report["steering"] = {
            "epoch": steering.epoch,
            "layer": steering.layer,
            "cosine_with_other_groups": steering.cosine,
            "curves": curves,
            "random_directions_5_95": steering.band(),
        }
    records = [{"split": split, **r} for split, rows in report["results"].items() for r in rows]
    write_json(folder / "metrics.json", report)
    write_csv(folder / "metrics.csv", records)
    if isinstance(scorer, HasDirection):
        scorer.direction().save(folder / "direction")
    if isinstance(scorer, HasShift):
        scorer.save_pretrained(folder / "adapter")
    return report


def print_table(console: Console, scorer: Scorer, judge: Judge, split: Literal["validation", "test"]) -> None:
    """Prints every metric of one split, a row per column, control and the band of random directions."""
    judgement = judge.judgements[split]
    result = judgement.evaluation
    judged = (
        f"{result.n_stories} rated stories" if result.n_stories else f"{2 * result.n_pairs} texts of held-out pairs"
    )
    estimate = result.estimates["spearman"][scorer.chosen]
    few = f" (too few groups: {estimate.n_groups})" if estimate.too_few_groups else ""
    title = (
        f"{type(scorer).__name__} read from {scorer.span}s, on {split}: {judged}, 95 % group-bootstrap intervals{few}"
    )
    table = Table(box=SIMPLE_HEAD, title=title)
    table.add_column("layer" if scorer.kind == "layers" else "")
    shown = {m: e for m, e in result.estimates.items() if np.isfinite([x.value for x in e.values()]).any()}
    for metric in shown:
        table.add_column(metric.replace("_", " "))
    for name in result.estimates["spearman"]:
        chosen = name == scorer.chosen
        label = name.removeprefix("layer_").replace("_", " ") + (" (chosen)" if chosen else "")
        table.add_row(label, *(cell(columns[name]) for columns in shown.values()), style="bold" if chosen else None)
    low, high = judgement.band_95
    table.add_row("200 random", f"{low:.2f} to {high:.2f}\n[dim]5-95 %[/dim]")
    console.print(table)


def print_report(
    console: Console, folder: Path, scorer: Scorer, judge: Judge, steering: SteeringCallback | None
) -> None:
    """Prints the table, the verdict, two dull prompts with and without steering, and what to do next."""
    print_table(console, scorer, judge, "test")
    console.print(verdict(scorer, judge.judgements["test"]), highlight=False)
    if steering and steering.samples:
        _print_stories(console, steering)
        if isinstance(scorer, LoRAScorer) and scorer.best.get("epoch") != steering.epoch:
            console.print(f"The adapter that is kept, and was tested, is that of epoch {scorer.best.get('epoch')}.")
    reads = scorer.extractor.reads
    console.print(f"\nThe LM read {reads.texts} texts ({reads.tokens} tokens) for this; the rest was remembered.")
    left = sorted(
        f"{path.name}/" if path.is_dir() else path.name for path in folder.iterdir() if "tfevents" not in path.name
    )
    console.print(f"Everything is in {folder}: {', '.join(left)}.")
    console.print(f"Next: tensorboard --logdir {folder.parent}", highlight=False)
    if isinstance(scorer, HasDirection):
        console.print('  or: python -m probe generate "Write a story about a town."', highlight=False)
    if isinstance(scorer, LoRAWriter):
        console.print(
            f"  or, beside steering: python -m probe stories --config configs/stories.yaml --adapter {folder / 'adapter'}",
            highlight=False,
        )


def cell(estimate: Estimate, digits: int = 2) -> str:
    """An estimate in a table: the value, and below it the interval."""
    if np.isnan(estimate.value):
        return "-"
    ends = "" if np.isnan(estimate.lower) else f"[{estimate.lower:.{digits}f}, {estimate.upper:.{digits}f}]"
    return f"{estimate.value:.{digits}f}" + (f"\n[dim]{escape(ends)}[/dim]" if ends else "")


def verdict(scorer: Scorer, judgement: Judgement) -> str:
    """Says in words which column was chosen, what it beats on test, by how much, and what that does not show."""
    estimates = {metric: columns[scorer.chosen] for metric, columns in judgement.evaluation.estimates.items()}
    rho = estimates["spearman"]
    p95 = judgement.band_95[1]
    if np.isnan(rho.value):
        return f"Verdict: it ranks nothing here{': ' + scorer.note if scorer.note else ''}."
    chosen = "the score" if scorer.kind == "single" else f"{scorer.chosen.replace('_', ' ')}, chosen on validation,"
    lines = [
        f"Verdict: {chosen} ranks the test texts with Spearman {rho} "
        f"({rho.n_groups} groups); 95 % of random directions given the same choices stay below {p95:.2f}, "
        f"so it {'beats' if rho.lower > p95 else 'does NOT clearly beat'} them."
    ]
    for control in CONTROLS:
        margin = judgement.margins[control]
        if np.isnan(margin.value):
            lines.append(f"It cannot be compared with {control.replace('_', ' ')}, which ranks nothing here.")
            continue
        word = "beats" if margin.lower > 0 else "loses to" if margin.upper < 0 else "is not told apart from"
        lines.append(f"It {word} {control.replace('_', ' ')}: Spearman higher by {margin}.")
    low, high = estimates["spearman_low"], estimates["spearman_high"]
    if np.isfinite(low.value):
        lines.append(f"Within the lower and the upper half of the truth: {low} and {high}.")
    if judgement.people:
        agreement = judgement.people.agreement
        lines.append(
            f"{agreement.n_raters} raters agree with Krippendorff's alpha {agreement.alpha}, one with the mean of the others "
            f"by Spearman {agreement.one_against_others}: about what any score can reach. With raters resampled too, "
            f"ours is {judgement.people.spearman}."
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
        f"\nSteering ({steering.unit}) after epoch {steering.epoch}, scored at layer {steering.layer} on a clean forward with "
        f"a direction from other groups (cosine {steering.cosine:.2f} with what steers; near 1 they are one vector and prove "
        "nothing alone):"
    )
    for prompt in list(dict.fromkeys(s.prompt for s in steering.samples))[:2]:
        console.print(f"\n[bold]{escape(prompt)}[/bold]", highlight=False)
        for strength in strengths:
            sample = samples[prompt, strength]
            witness = "" if sample.inventive_share is None else f", inventive {sample.inventive_share:.2f}"
            label = "plain" if strength == 0 else f"steered {strength:g} {steering.unit}"
            console.print(
                f"  {label} (score {sample.score:.3f}, extra NLL {sample.extra_nll:+.2f}{witness}):", highlight=False
            )
            console.print(f"    {escape(sample.text)}", highlight=False)
