"""What is learned here is float32, whatever number type the trainer asks for."""

import lightning as L
from lightning.pytorch.plugins.precision import MixedPrecision, Precision
from lightning.pytorch.utilities import rank_zero_warn


def keep_float32(trainer: L.Trainer, mixes: bool) -> None:
    """Puts the trainer back to full precision, which means, directions, heads and adapters need.

    The difference of two rounded means is noise. The frozen LM is not the trainer's: its number type is `--lm.dtype`.

    Args:
        trainer: Before it sets its strategy up.
        mixes: Whether mixed precision, which leaves weights alone, may stay: where the LM itself is trained.
    """
    asked = trainer.strategy.precision_plugin
    if asked.precision == "32-true" or (mixes and isinstance(asked, MixedPrecision)):
        return
    trainer.strategy.precision_plugin = Precision()
    rank_zero_warn(
        f"--trainer.precision {asked.precision} changes nothing here: what is learned is float32; the LM's type is --lm.dtype."
    )
