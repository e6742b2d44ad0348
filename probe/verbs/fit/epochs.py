"""How far the training is: an epoch's batches, where they take long enough to be told."""

from contextlib import ExitStack

import lightning as L

from probe.progress import Advance, silent, working


class EpochProgress(L.Callback):
    """Counts the batches of each epoch; reading, scoring and steering tell of themselves."""

    def __init__(self) -> None:
        self._shown = ExitStack()
        self._advance: Advance = silent

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """A bar, or lines, for this epoch."""
        epochs = "" if trainer.max_epochs in (None, -1, 1) else f" of {trainer.max_epochs}"
        doing = f"learning, epoch {trainer.current_epoch + 1}{epochs},"
        shown = trainer.is_global_zero and not trainer.progress_bar_callback  # who asked for Lightning's has that
        n_batches = int(trainer.num_training_batches)
        self._advance = self._shown.enter_context(working(doing, n_batches, "batches", shown))

    def on_train_batch_end(self, *_: object) -> None:
        """One more."""
        self._advance(1)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """The end of an epoch's batches: validation tells of itself."""
        self._shown.close()

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """No bar is left behind."""
        self._shown.close()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Nor after a fault."""
        self._shown.close()
