"""Scorer: what every method shares: reading the LM once, scoring rows, choosing a column, keeping a lean checkpoint."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import lightning as L
import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from probe.activations.extractor import ActivationExtractor
from probe.activations.pooling import Activations
from probe.activations.store import ActivationStore
from probe.data.reading import Passage, Span
from probe.data.splits import Split, SplitRows
from probe.errors import ProbeError
from probe.lm.frozen import FrozenLM
from probe.lm.sources import cached
from probe.lm.spec import LMSpec
from probe.metrics.evaluation import EvaluationSet
from probe.metrics.ranks import Floats, RowScores
from probe.options.types import FilePath
from probe.progress import working
from probe.scorers.checkpoints import Checkpoint, check_epochs, check_shapes, differences, learned_from
from probe.scorers.precision import keep_float32
from probe.shown.terminal import Terminal
from probe.version import library_versions

Kind = Literal["layers", "single", "band"]


class Scorer(L.LightningModule, ABC):
    """A way of scoring texts by how creative a frozen LM finds them, in one or several named columns.

    The LM stays outside the module tree, so its weights enter no checkpoint; it is loaded in `setup`. A new method
    says its columns and `score`, and what it learns in Lightning's own hooks.

    Args:
        lm: The language model to read; given once, in the `lm` section of a config.
        span: Where pairs are read: over the instruction (prompt), where the reply to it begins (reply), or over the text
            that answers it (response).
        cache_dir: Where activations are remembered between runs; `auto` is the user's cache folder, null remembers nothing.
    """

    kind: ClassVar[Kind] = "single"
    """What the columns are: one `layer_k` per block, a single score, or a band of equal rivals."""
    mixes: ClassVar[bool] = False
    """Whether the trainer's mixed precision means something here: where the LM itself is trained."""
    needs_pairs: ClassVar[bool] = False
    """Whether it learns from the two sides of pairs, and can do nothing with ratings."""
    wanted_layers: list[int] | None = None
    note = ""
    """What a reader of its numbers must know: that it is not applicable to this model, say."""
    extractor: ActivationExtractor

    def __init__(self, lm: LMSpec, span: Span = "response", cache_dir: FilePath | None = "auto") -> None:
        super().__init__()
        # Every argument of every subclass: what is learned depends on it, unless it stands here.
        self.save_hyperparameters(ignore=["lm", "cache_dir"], logger=False)
        self.lm_spec, self.span, self.cache_dir = lm, span, cache_dir
        self.features: dict[Split, Activations] = {}
        self.scored: dict[Split, Floats] = {}
        self.chosen = ""
        self._collected = RowScores()
        self.automatic_optimization = False

    @property
    def data(self) -> SplitRows:
        """The data module of the run; where a scorer is restored, its rows are read when it first asks for them."""
        data: SplitRows = self.trainer.datamodule  # type: ignore[attr-defined]
        data.setup("fit")
        return data

    @property
    def lm(self) -> FrozenLM:
        """The language model that is read."""
        return self.extractor.lm

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the score columns."""
        return ("score",)

    # -- reading ------------------------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        """Opens the LM and reads every split; what was read before is remembered, on disk too.

        Raises:
            ProbeError: where the method needs pairs and ratings are given.
        """
        if self.needs_pairs and self.data.rated:
            raise ProbeError(
                f"{type(self).__name__} learns from pairs, whose sides differ, found rated texts; give it ContrastData, or take "
                "RidgeProbe, LoRAProbe or MeanDifference."
            )
        self.open()
        if self.features:
            return
        waits = self.extractor.store and self.trainer.world_size > 1
        if not self.trainer.is_global_zero and waits:
            self.trainer.strategy.barrier("rank zero reads, the others find it on disk")
        passages = {split: [row.passage(self.span) for row in rows] for split, rows in self.data.rows.items()}
        to_read = [self.extractor.to_read(of_split) for of_split in passages.values()]
        n_texts, n_tokens = (sum(counts) for counts in zip(*to_read, strict=True))
        if n_texts and self.trainer.is_global_zero:
            n = sum(map(len, passages.values()))
            known = f"; {n - n_texts:,} more are remembered, or stand there twice" if n > n_texts else ""
            Terminal().print(f"{self.lm_spec.model} has {n_texts:,} texts to read, {n_tokens:,} tokens{known}.")
        with working("reading", n_tokens, "tokens") as advance:
            self.features = {split: self.extractor(of_split, advance) for split, of_split in passages.items()}
        if self.trainer.is_global_zero and waits:
            self.trainer.strategy.barrier("rank zero reads, the others find it on disk")
        if self.extractor.reads.truncated:
            cut, limit = self.extractor.reads.truncated, self.lm.max_tokens
            rank_zero_warn(f"{cut} texts were longer than {limit} tokens and were cut there; --strict refuses instead.")
        self.build()
        if not any(p.requires_grad for p in self.parameters()):
            self.clock = torch.nn.Parameter(torch.zeros(()))  # Lightning counts steps of an optimizer, which needs one

    def open(self) -> None:
        """Loads the LM, unless one was given; from here on `identity` is known."""
        keep_float32(self.trainer, self.mixes)
        if not hasattr(self, "extractor"):
            store = ActivationStore(cached(self.cache_dir, "activations"), rank_zero_warn) if self.cache_dir else None
            self.extractor = ActivationExtractor(FrozenLM.load(self.lm_spec), self.wanted_layers, store)

    @abstractmethod
    def build(self) -> None:
        """Makes the parameters, once the LM is known and the splits are read."""

    @abstractmethod
    def score(self, passages: Sequence[Passage]) -> Tensor:
        """Scores `[N, C]` of any passages, raw, higher = more creative; one column per name in `columns`."""

    def score_rows(self, split: Split, rows: Tensor) -> Tensor:
        """Scores `[B, C]` of the rows `[B]` of a split."""
        return self.score([self.data.rows[split][row].passage(self.span) for row in rows.tolist()])

    def forget(self) -> None:
        """Remembers no text that was read so far, nor any from here on: there may be millions."""
        self.extractor = ActivationExtractor(self.lm, self.extractor.layers)

    def release(self) -> None:
        """Gives the LM back as it was; called when the scorer is no longer needed."""

    @property
    def n_trainable(self) -> int:
        """How many numbers are learned."""
        return sum(p.numel() for name, p in self.named_parameters() if p.requires_grad and name != "clock")

    # -- learning -----------------------------------------------------------------------------------------------

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """An optimizer that moves nothing: it advances the global step, which checkpoints and TensorBoard count by."""
        return torch.optim.SGD(self.parameters(), lr=0.0)

    def training_step(self, batch: dict[str, Tensor], _: int) -> Any:
        """Learns nothing; a method that learns does so here or when the epoch ends."""
        self.optimizers().step()  # type: ignore[union-attr]

    # -- being judged -------------------------------------------------------------------------------------------

    def _collect(self, split: Split, batch: dict[str, Tensor]) -> None:
        rows = batch["row"].cpu()
        self._collected.update(rows, self.score_rows(split, rows).cpu())

    def validation_step(self, batch: dict[str, Tensor], _: int) -> None:
        """Scores held-out rows."""
        self._collect("validation", batch)

    def test_step(self, batch: dict[str, Tensor], _: int) -> None:
        """Scores test rows."""
        self._collect("test", batch)

    def predict_step(self, batch: dict[str, Tensor], _: int) -> dict[str, Tensor]:
        """Row numbers and scores of test rows."""
        return {"row": batch["row"], "score": self.score_rows("test", batch["row"].cpu())}

    def on_validation_epoch_end(self) -> None:
        """Chooses a column on validation."""
        if self.trainer.sanity_checking:
            self._collected.reset()  # scores of what has learned nothing yet
            return
        self._gather("validation")
        truth = EvaluationSet(self.data.rows["validation"])
        self.chosen = self.choose(truth)
        self.log("val/spearman", float(truth.spearman(self.scored["validation"][:, self.columns.index(self.chosen)])))

    def on_test_epoch_end(self) -> None:
        """Keeps the scores of the test; the column was chosen before."""
        self._gather("test")

    def _gather(self, split: Split) -> None:
        rows, self.scored[split] = self._collected.compute()
        self._collected.reset()
        assert (rows == np.arange(len(self.data.rows[split]))).all(), "every row is scored once"

    def choose(self, truth: EvaluationSet) -> str:
        """The column to use: the one that ranks validation best."""
        return self.columns[int(np.nan_to_num(truth.spearman(self.scored["validation"]), nan=-1.0).argmax())]

    # -- remembering --------------------------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keeps what the weights mean: the method, how it read, and the chosen column."""
        checkpoint["scorer"] = self.identity() | {"chosen": self.chosen}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Takes the chosen column back; refuses a checkpoint of another method, setting, model or data."""
        theirs = dict(checkpoint["scorer"])
        chosen, fits = str(theirs.pop("chosen", "")), self.trainer.state.fn == "fit"
        if reason := differences(theirs, self.identity()):
            raise ProbeError(f"the checkpoint was made with {reason}; use the config of its run folder.")
        check_shapes(checkpoint["state_dict"], self.state_dict())
        if chosen not in self.columns and (chosen or not fits):
            raise ProbeError(
                f"the checkpoint has chosen the column {chosen!r}, expected one of {', '.join(self.columns)}; name another one."
            )
        if fits:
            check_epochs(checkpoint, self.trainer.max_epochs)
        self.chosen = chosen

    def identity(self) -> dict[str, Any]:
        """What has to agree before weights may be loaded: method, settings, what was read and how, and what was learned from.

        Test rows are no part of it: a checkpoint may be judged on any.
        """
        return self.settings() | learned_from(self.data)

    def settings(self) -> dict[str, Any]:
        """What the score of any text depends on beside the weights: method, settings, the LM and how it reads."""
        return {
            "method": type(self).__name__,
            **self.hparams,
            "lm_fingerprint": self.lm.fingerprint,
            "lm_dtype": str(self.lm.model.dtype).removeprefix("torch."),
            **self.lm.encoder.reading,
        }

    def learned(self, checkpoint: Checkpoint) -> dict[str, Tensor]:
        """The weights that score, of a checkpoint that may hold others to go on from."""
        return dict(checkpoint["state_dict"])

    def provenance(self) -> dict[str, Any]:
        """Where this scorer comes from, for everything it saves."""
        examples = self.data.examples
        return {
            **self.identity(),
            "lm": self.lm_spec.model,
            "concept": self.data.concept,
            f"n_{self.data.examples_are}": len(examples),
            "n_groups": len({example.group for example in examples}),
            "seed": self.data.seed,
            "versions": library_versions(),
        }
