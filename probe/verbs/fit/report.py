"""What a run leaves behind: figures in TensorBoard, metrics as JSON and CSV, the direction, and a verdict in words."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import lightning as L
import numpy as np
from lightning.pytorch.callbacks import BasePredictionWriter
from lightning.pytorch.loggers import TensorBoardLogger

from probe.data.concept import less
from probe.files import write_csv, write_json, write_json_lines
from probe.logs import discard_if_empty
from probe.metrics.evaluation import EvaluationSet, band_percentiles
from probe.runs.calibration import Calibration
from probe.scorers.abilities import HasDirection, HasShift
from probe.scorers.base import Scorer
from probe.scorers.directional import DirectionalScorer
from probe.scorers.judging import CONTROLS, Judge
from probe.scorers.lora import LoRAScorer
from probe.show import draw
from probe.shown.terminal import Terminal
from probe.steering.callback import SteeringCallback
from probe.verbs.fit.figures import (
    idea_and_style,
    layer_curve,
    metrics_table,
    pictures,
    score_histogram,
    steering_curves,
)
from probe.verbs.fit.screens import print_result
from probe.verbs.fit.verdict import figures, verdict


class RunReport(L.Callback):
    """Judges the scorer after each evaluation; the results of a run are in its files before anything is drawn or printed."""

    def __init__(self) -> None:
        self.judge = Judge()

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Says what a fit is going to do, before the model is read."""
        steering = _steering(trainer)
        if stage == "fit" and trainer.is_global_zero:
            writes = isinstance(pl_module, DirectionalScorer | LoRAScorer) and steering and steering.n_prompts
            then = ", shows what it found, then answers a few prompts plain and steered" if writes and steering else ""
            Terminal().print(
                f"{type(pl_module).__name__} reads the texts, learns, is judged on texts that it never saw{then}. How long "
                "each step takes is said as soon as its first batches are done."
            )

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """This epoch's validation."""
        if not trainer.sanity_checking:
            self._log(trainer, pl_module, "validation")
            self._log_steering(trainer)

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """The test, shown before the slow steering begins; then what steering with the result did."""
        assert isinstance(pl_module, Scorer)
        self._log(trainer, pl_module, "test")
        settings = {**pl_module.identity(), "lm": pl_module.lm_spec.model, "column": pl_module.chosen}
        shown = {key: settings.get(key, "") for key in ("method", "span", "pooling", "lm", "column")}
        estimates = self.judge.judgements["test"].evaluation.estimates
        chosen = {f"hp/test_{metric}": columns[pl_module.chosen].value for metric, columns in estimates.items()}
        for board in _boards(trainer):
            board.log_hyperparams(shown, {name: value for name, value in chosen.items() if np.isfinite(value)})
        steering = _steering(trainer)
        if steering and steering.owes:
            steering.steer(trainer, pl_module)
            folder = Path(
                trainer.log_dir or "."
            )  # asks every process, so it stands before what only the first one does
            if trainer.is_global_zero:
                write_report(folder, pl_module, self.judge, steering)
            self._log_steering(trainer)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """A run that ends before it has found anything leaves no folder behind."""
        if trainer.is_global_zero:
            for board in _boards(trainer):
                board.finalize("failed")
                discard_if_empty(Path(board.log_dir))

    def _log(self, trainer: L.Trainer, scorer: L.LightningModule, split: Literal["validation", "test"]) -> None:
        assert isinstance(scorer, Scorer)
        judgement = self.judge.judge(scorer, split)
        folder = Path(trainer.log_dir or ".")  # asks every process
        if trainer.state.fn != "fit" and trainer.is_global_zero:
            write_report(folder, scorer, self.judge, _steering(trainer))
            if split == "test":
                print_result(Terminal(), scorer, self.judge)
        prefix, step = "val" if split == "validation" else "test", trainer.global_step
        if split == "validation" and trainer.max_epochs != 1:  # a single point is no curve
            of_chosen = {m: columns[scorer.chosen].value for m, columns in judgement.evaluation.estimates.items()}
            for logger in trainer.loggers:
                logger.log_metrics({f"{prefix}/{m}": v for m, v in of_chosen.items() if np.isfinite(v)}, step)
        judged = EvaluationSet(scorer.data.rows[split])
        scores = judgement.chosen[judged.judged]
        if not trainer.is_global_zero:
            return
        boards, evaluation = _boards(trainer), judgement.evaluation
        for metric in evaluation.told if scorer.kind == "layers" else ():
            layers = scorer.extractor.layers
            layer = layers[scorer.columns.index(scorer.chosen)]
            figure = layer_curve(evaluation, metric, layers, layer, judgement.band_95)
            draw(figure, f"{prefix}/layers/{metric}", folder, boards, step)
        if np.isfinite(scores).all():
            names = (less(scorer.data.concept), scorer.data.concept)
            histogram = score_histogram(scores, judged.truth, judged.middle, scorer.chosen, names)
            draw(histogram, f"{prefix}/scores", folder, boards, step)
        if "idea_accuracy" in evaluation.told:
            rivals = {name: name.replace("_", " ") for name in (scorer.chosen, *CONTROLS)}
            draw(idea_and_style(evaluation, rivals), "result/idea_or_style", folder, boards, step)
        for board in (logger.experiment for logger in boards):
            board.add_text(f"{prefix}/table", metrics_table(evaluation), step)
            if np.isfinite(scores).all():
                halves = {"lower": scores[judged.truth < judged.middle], "upper": scores[judged.truth > judged.middle]}
                for half, of_half in halves.items():
                    if len(of_half):  # equal ratings have no halves
                        board.add_histogram(f"{prefix}/scores_{half}_half", of_half, step)

    def _log_steering(self, trainer: L.Trainer) -> None:
        steering, folder = _steering(trainer), Path(trainer.log_dir or ".")
        if not (steering and steering.samples):
            return
        curves, band = steering.curves(), steering.band()
        for tag, measures in pictures(curves, steering.told_by).items():
            figure = steering_curves({m: curves[m] for m in measures}, steering.unit, band)
            draw(figure, tag, folder, _boards(trainer), trainer.global_step)


def _steering(trainer: L.Trainer) -> SteeringCallback | None:
    return next((c for c in vars(trainer)["callbacks"] if isinstance(c, SteeringCallback)), None)


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
        Terminal().print(f"{len(records)} scores are in {path}.")


def write_report(folder: Path, scorer: Scorer, judge: Judge, steering: SteeringCallback | None) -> dict[str, Any]:
    """Writes `metrics.json`, `metrics.csv` and, where the scorer has one, `direction/`; returns the metrics."""
    judgements, test = judge.judgements, judge.judgements.get("test")
    report: dict[str, Any] = {
        "provenance": scorer.provenance(),
        "chosen": scorer.chosen,
        "verdict": verdict(scorer, test) if test else "",
        "figures_say": list(figures(scorer, judge)) if test else [],
        "reads": asdict(scorer.extractor.reads),
        "margins_on_test": {name: asdict(e) for name, e in test.margins.items()} if test else {},
        "random_directions": {
            split: dict(zip(("p5", "p50", "p95"), band_percentiles(j.band).tolist(), strict=True))
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
    Calibration.of(scorer).save(folder)
    if isinstance(scorer, HasDirection):
        scorer.direction().save(folder / "direction")
    if isinstance(scorer, HasShift):
        scorer.save_pretrained(folder / "adapter")
    return report
