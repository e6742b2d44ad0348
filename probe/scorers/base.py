"""Scorer: what every method shares: reading the LM once, scoring rows, choosing a column, keeping a lean checkpoint."""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

import lightning as L
import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from probe.activations import ActivationExtractor, Activations, ActivationStore
from probe.data import Split, SplitRows
from probe.directions import Direction
from probe.errors import ProbeError
from probe.evaluation import EvaluationSet
from probe.lm import FrozenLM
from probe.metrics import Floats, RowScores
from probe.rows import Passage, Span
from probe.spec import LMSpec

Kind = Literal["layers", "single", "band"]


@runtime_checkable
class HasDirection(Protocol):
    """A scorer that can say which way creativity lies in the residual stream."""

    chosen_layer: int

    def direction(self) -> Direction:
        """The unit direction at every layer."""


@runtime_checkable
class HasShift(Protocol):
    """A scorer that changes the model, and can say which way it moves the residual stream."""

    chosen_layer: int

    def shift(self, passages: Sequence[Passage]) -> Tensor:
        """Mean change `[D]` of the pooled state at the layer."""

    def save_pretrained(self, folder: Path) -> Path:
        """Writes the change as PEFT reads it."""


@runtime_checkable
class Compares(Protocol):
    """A scorer that judges two texts side by side, not each alone."""

    def prefer(self, one: Sequence[Passage], other: Sequence[Passage]) -> Tensor:
        """How much `one` is more creative than `other` `[N]`; 0 is a tie."""

    def position_bias(self, one: Sequence[Passage], other: Sequence[Passage]) -> float:
        """How much the first of two texts is preferred, whichever it is."""


class Scorer(L.LightningModule, ABC):
    """A way of scoring texts by how creative a frozen LM finds them, in one or several named columns.

    The LM stays outside the module tree, so its weights enter no checkpoint; it is loaded in `setup`. A new method
    says its columns and `score`, and what it learns in Lightning's own hooks.

    Args:
        lm: The language model to read; given once, in the `lm` section of a config.
        span: Where pairs are read: over the instruction (prompt) or the text that answers it (response).
        cache_dir: Where activations are remembered between runs; null remembers nothing.
    """

    kind: ClassVar[Kind] = "single"
    """What the columns are: one `layer_k` per block, a single score, or a band of equal rivals."""
    wanted_layers: list[int] | None = None
    note = ""
    """What a reader of its numbers must know: that it is not applicable to this model, say."""
    extractor: ActivationExtractor

    def __init__(self, lm: LMSpec, span: Span = "response", cache_dir: str | None = ".cache/activations") -> None:
        super().__init__()
        self.lm_spec, self.span, self.cache_dir = lm, span, cache_dir
        self.features: dict[Split, Activations] = {}
        self.scored: dict[Split, Floats] = {}
        self.chosen = ""
        self._collected = RowScores()
        self.automatic_optimization = False

    @property
    def data(self) -> SplitRows:
        """The data module of the run."""
        data: SplitRows = self.trainer.datamodule  # type: ignore[attr-defined]
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
        """Loads the LM, unless one was given, and reads every split; what was read before is remembered, on disk too."""
        if self.features:
            return
        if not hasattr(self, "extractor"):
            store = ActivationStore(Path(self.cache_dir).expanduser(), rank_zero_warn) if self.cache_dir else None
            self.extractor = ActivationExtractor(FrozenLM.load(self.lm_spec), self.wanted_layers, store)
        waits = self.extractor.store and self.trainer.world_size > 1
        if not self.trainer.is_global_zero and waits:
            self.trainer.strategy.barrier("rank zero reads, the others find it on disk")
        for split, rows in self.data.rows.items():
            self.features[split] = self.extractor([row.passage(self.span) for row in rows], progress=True)
        if self.trainer.is_global_zero and waits:
            self.trainer.strategy.barrier("rank zero reads, the others find it on disk")
        if self.extractor.reads.truncated:
            cut, limit = self.extractor.reads.truncated, self.lm.max_tokens
            rank_zero_warn(f"{cut} texts were longer than {limit} tokens and were cut there; --strict refuses instead.")
        self.build()
        if not any(p.requires_grad for p in self.parameters()):
            self.clock = torch.nn.Parameter(torch.zeros(()))  # Lightning counts steps of an optimizer, which needs one

    @abstractmethod
    def build(self) -> None:
        """Makes the parameters, once the LM is known and the splits are read."""

    @abstractmethod
    def score(self, passages: Sequence[Passage]) -> Tensor:
        """Scores `[N, C]` of any passages, raw, higher = more creative; one column per name in `columns`."""

    def score_rows(self, split: Split, rows: Tensor) -> Tensor:
        """Scores `[B, C]` of the rows `[B]` of a split."""
        return self.score([self.data.rows[split][row].passage(self.span) for row in rows.tolist()])

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
            return
        self._gather("validation")
        judge = EvaluationSet(self.data.rows["validation"])
        self.chosen = self.choose(judge)
        self.log("val/spearman", float(judge.spearman(self.scored["validation"][:, self.columns.index(self.chosen)])))

    def on_test_epoch_end(self) -> None:
        """Keeps the scores of the test; the column was chosen before."""
        self._gather("test")

    def _gather(self, split: Split) -> None:
        rows, self.scored[split] = self._collected.compute()
        self._collected.reset()
        assert (rows == np.arange(len(self.data.rows[split]))).all(), "every row is scored once"

    def choose(self, judge: EvaluationSet) -> str:
        """The column to use: the one that ranks validation best."""
        return self.columns[int(np.nan_to_num(judge.spearman(self.scored["validation"]), nan=-1.0).argmax())]

    # -- remembering --------------------------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keeps what the weights mean: the method, how it read, and the chosen column."""
        checkpoint["scorer"] = self.identity() | {"chosen": self.chosen}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Takes the chosen column back; refuses a checkpoint of another method, reading or model."""
        theirs = dict(checkpoint.get("scorer", {}))
        chosen = str(theirs.pop("chosen", ""))
        if theirs != self.identity():
            differing = [k for k, v in self.identity().items() if theirs.get(k) != v]
            raise ProbeError(
                f"the checkpoint was made with another {', '.join(differing)} (found {[theirs.get(k) for k in differing]}, "
                f"the config says {[self.identity()[k] for k in differing]}); use the config of its run folder."
            )
        self.chosen = chosen

    def identity(self) -> dict[str, Any]:
        """What has to agree before weights may be loaded."""
        return {"method": type(self).__name__, "span": self.span, "lm_fingerprint": self.lm.fingerprint}

    def provenance(self) -> dict[str, Any]:
        """Where this scorer comes from, for everything it saves."""
        pairs = self.data.pairs
        return {
            **self.identity(),
            "lm": self.lm_spec.model,
            "lm_system": self.lm_spec.system,
            "lm_dtype": str(self.lm.model.dtype).removeprefix("torch."),
            "template_hash": self.lm.template_hash,
            "data_fingerprint": fingerprint([asdict(pair) for pair in pairs]),
            "n_pairs": len(pairs),
            "n_groups": len({pair.group for pair in pairs}),
            "seed": self.data.seed,
            "versions": library_versions(),
        }


def fingerprint(value: Any) -> str:
    """sha256 of a JSON value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def library_versions() -> dict[str, str]:
    """Versions of the libraries a result depends on."""
    return {name: version(name) for name in ("probe", "torch", "transformers", "peft", "lightning", "safetensors")}
