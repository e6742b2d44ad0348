"""A scorer without a run: what a checkpoint holds, put back; training texts are read only where the method asks for them."""

from collections.abc import Callable, Mapping
from typing import Any

import lightning as L
from lightning.pytorch.utilities.seed import isolate_rng

from probe.activations.extractor import ActivationExtractor
from probe.activations.pooling import Activations
from probe.activations.store import ActivationStore
from probe.data.splits import Split, SplitRows
from probe.errors import ProbeError
from probe.lm.frozen import FrozenLM
from probe.lm.sources import cached
from probe.scorers.base import Scorer
from probe.scorers.checkpoints import Checkpoint, check_shapes, differences, learned_from


class RowsLearnedFrom(SplitRows):
    """The rows of a run, read when they are first asked for, and refused where they are others by now.

    Args:
        made: What the checkpoint says that it learned from.
        data: What reads them.
    """

    def __init__(self, made: Mapping[str, Any], data: SplitRows) -> None:
        super().__init__({}, [], data.batch_size, data.seed)
        self.made, self.data, self.concept, self.examples_are = made, data, data.concept, data.examples_are

    def setup(self, stage: str) -> None:
        """Reads them once."""
        if self.rows:
            return
        self.data.setup(stage)
        self.rows, self.examples = self.data.rows, self.data.examples
        ours = learned_from(self)
        if reason := differences({name: self.made.get(name) for name in ours}, ours):
            self.rows = {}
            raise ProbeError(
                f"this scorer needs the texts that it learned from, but they are others by now: the checkpoint was made with "
                f"{reason}; put the files of its config.yaml back."
            )


class _ReadWhenAsked(dict[Split, Activations]):
    def __init__(self, read: Callable[[Split], Activations]) -> None:
        super().__init__()
        self.read = read

    def __missing__(self, split: Split) -> Activations:
        self[split] = self.read(split)
        return self[split]


def restore(scorer: Scorer, lm: FrozenLM, checkpoint: Checkpoint, data: RowsLearnedFrom) -> Scorer:
    """Gives a new scorer the LM and what a checkpoint of its run has learned.

    Raises:
        ProbeError: where method, settings, LM or how it reads are not those of the checkpoint.
    """
    scorer.extractor = ActivationExtractor(lm, scorer.wanted_layers)
    made, ours = checkpoint["scorer"], scorer.settings()
    if reason := differences({name: made.get(name) for name in ours}, ours):
        raise ProbeError(
            f"the checkpoint was made with {reason}; give it the model and the config that it was made with."
        )
    device = lm.device.type
    scorer.trainer = L.Trainer(
        accelerator="gpu" if device == "cuda" else device,
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    vars(scorer.trainer)["datamodule"] = data

    def read(split: Split) -> Activations:
        store = ActivationStore(cached(scorer.cache_dir, "activations")) if scorer.cache_dir else None
        passages = [row.passage(scorer.span) for row in scorer.data.rows[split]]
        return ActivationExtractor(lm, scorer.wanted_layers, store)(passages, progress=True)

    scorer.features = _ReadWhenAsked(read)
    with isolate_rng():
        scorer.build()
    scorer.features = {}
    weights = {name: value for name, value in scorer.learned(checkpoint).items() if name != "clock"}
    check_shapes(weights, scorer.state_dict())
    scorer.load_state_dict(weights)
    scorer.chosen = str(made.get("chosen"))
    if scorer.chosen not in scorer.columns:
        raise ProbeError(
            f"the checkpoint has chosen the column {scorer.chosen!r}, expected one of {', '.join(scorer.columns)}; fit anew."
        )
    return scorer.requires_grad_(False).train(False)
