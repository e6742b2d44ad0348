"""Trainer options that would starve a stage: refused before the LM is read, since a share of the rows gives other numbers."""

import math

import lightning as L

from probe.data.splits import SplitRows
from probe.errors import ProbeError

LOADERS = {"fit": ("train", "val", "test"), "validate": ("val",), "test": ("test",), "predict": ("predict",)}
"""What each verb runs through, as Trainer's options name it; a fit ends with the test."""


class WholeStages(L.Callback):
    """Sees to it that every row is learned from, or scored, once, and that the last epoch is validated.

    What Lightning refuses by itself is left to it. A limit that leaves out nothing does no harm: so `fast_dev_run` where all
    rows are one batch.
    """

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Runs after the rows are split and before any is read."""
        data: SplitRows = vars(trainer)["datamodule"]
        for name in LOADERS[stage]:
            limit, n = getattr(trainer, f"limit_{name}_batches"), len(getattr(data, f"{name}_dataloader")())
            if limit != 1.0 if isinstance(limit, float) else limit < n:
                raise ProbeError(
                    f"--trainer.limit_{name}_batches: expected all {n} batches, since every row counts once, found {limit} "
                    "(overfit_batches and fast_dev_run set it too); leave it out, and give fewer rows to be quicker."
                )
        if stage == "fit":
            _check_epochs(trainer, len(data.train_dataloader()))


def _check_epochs(trainer: L.Trainer, n_batches: int) -> None:
    """Raises ProbeError unless at least one epoch is whole and the last one is validated: there a column is chosen."""
    if trainer.accumulate_grad_batches < 1:
        raise ProbeError(
            f"--trainer.accumulate_grad_batches {trainer.accumulate_grad_batches}: expected 1 or more; leave it out."
        )
    steps, epochs = math.ceil(n_batches / trainer.accumulate_grad_batches), trainer.max_epochs
    if epochs == 0 or 0 <= trainer.max_steps < steps:
        raise ProbeError(
            f"--trainer.max_epochs {epochs}, --trainer.max_steps {trainer.max_steps}: expected at least one whole epoch, "
            f"which has {steps} steps, found less; nothing would be learned from all pairs."
        )
    every = trainer.check_val_every_n_epoch
    if every is not None and (every < 1 or (epochs is not None and epochs > 0 and epochs % every)):
        raise ProbeError(
            f"--trainer.check_val_every_n_epoch {every}: expected it to divide max_epochs, since what the last epoch learned is "
            f"validated, found max_epochs {epochs}; correct one of them."
        )
    interval = trainer.val_check_interval
    batches = int(interval * n_batches) if isinstance(interval, float) else interval
    if isinstance(batches, int) and (batches < 1 or n_batches % batches):
        raise ProbeError(
            f"--trainer.val_check_interval {interval}: expected a validation at the end of each epoch of {n_batches} batches, "
            "found none there; leave it out."
        )
