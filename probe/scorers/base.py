"""Scorer: what every method shares: reading the LM once, scoring rows, being judged, keeping a lean checkpoint."""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import lightning as L
import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from probe.activations import ActivationExtractor, Activations, ActivationStore
from probe.data import ContrastData, Split
from probe.directions import Direction, random_directions
from probe.errors import ProbeError
from probe.evaluation import Evaluation, EvaluationSet, choose_layer, random_band
from probe.lm import FrozenLM
from probe.metrics import Estimate, Floats, RowScores, to_numpy
from probe.people import People
from probe.rows import Passage, Pooling, Span
from probe.scorers.baselines import bag_of_words_scores
from probe.spec import LMSpec

N_RANDOM = 200
CONTROLS = ("length", "bag_of_words")


@runtime_checkable
class HasDirection(Protocol):
    """A scorer that can say which way creativity lies in the residual stream."""

    chosen_layer: int

    def direction(self) -> Direction:
        """The unit direction at every layer."""


class Scorer(L.LightningModule, ABC):
    """A way of scoring texts by how creative a frozen LM finds them; one column per layer.

    The LM stays outside the module tree, so its weights enter no checkpoint; it is loaded in `setup`.

    Args:
        lm: The language model to read; given once, in the `lm` section of a config.
        span: Where pairs are read: over the instruction (prompt) or the text that answers it (response).
        pooling: How a text's states become one vector to learn from.
        layers: Blocks to read, 0-based; all by default.
        cache_dir: Where activations are remembered between runs; null remembers nothing.
    """

    lm: FrozenLM
    extractor: ActivationExtractor

    def __init__(
        self,
        lm: LMSpec,
        span: Span = "response",
        pooling: Pooling = "mean",
        layers: list[int] | None = None,
        cache_dir: str | None = ".cache/activations",
    ) -> None:
        super().__init__()
        self.lm_spec, self.span, self.pooling, self.wanted_layers, self.cache_dir = lm, span, pooling, layers, cache_dir
        self.features: dict[Split, Activations] = {}
        self.results: dict[Literal["validation", "test"], Evaluation] = {}
        self.scored: dict[str, Floats] = {}
        self.bands: dict[Literal["validation", "test"], Floats] = {}
        self.margins: dict[str, Estimate] = {}
        self.people: People | None = None
        self.chosen_layer = -1
        self._collected = RowScores()
        self._controls: dict[Split, dict[str, Floats]] = {}

    @property
    def data(self) -> ContrastData:
        """The data module of the run."""
        data: ContrastData = self.trainer.datamodule  # type: ignore[attr-defined]
        return data

    # -- reading ------------------------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        """Loads the LM and reads every split; what was read before is remembered, on disk too."""
        if self.features:
            return
        self.lm = FrozenLM.load(self.lm_spec)
        store = ActivationStore(Path(self.cache_dir).expanduser(), rank_zero_warn) if self.cache_dir else None
        self.extractor = ActivationExtractor(self.lm, self.wanted_layers, store)
        self.build(len(self.extractor.layers), self.lm.hidden_size)
        if not self.trainer.is_global_zero and store:
            self.trainer.strategy.barrier("rank zero reads, the others find it on disk")
        for split, rows in self.data.rows.items():
            self.features[split] = self.extractor([row.passage(self.span) for row in rows], progress=True)
        if self.trainer.is_global_zero and store:
            self.trainer.strategy.barrier("rank zero reads, the others find it on disk")
        if self.extractor.reads.truncated:
            cut, limit = self.extractor.reads.truncated, self.lm.max_tokens
            rank_zero_warn(f"{cut} texts were longer than {limit} tokens and were cut there; --strict refuses instead.")

    @abstractmethod
    def build(self, n_layers: int, width: int) -> None:
        """Makes the parameters, once L and D are known."""

    @abstractmethod
    def score_activations(self, activations: Activations) -> Tensor:
        """Scores `[N, L]`, raw, higher = more creative."""

    def score(self, passages: Sequence[Passage]) -> Tensor:
        """Scores `[N, L]` of any passages, raw, higher = more creative; one column per recorded layer."""
        activations = self.extractor(passages)
        with torch.no_grad():
            return self.score_activations(activations)

    # -- being judged -------------------------------------------------------------------------------------------

    def _collect(self, split: Split, batch: dict[str, Tensor]) -> None:
        rows = batch["row"].cpu()
        self._collected.update(rows, self.score_activations(self.features[split][rows]).cpu())

    def validation_step(self, batch: dict[str, Tensor], _: int) -> None:
        """Scores held-out rows."""
        self._collect("validation", batch)

    def test_step(self, batch: dict[str, Tensor], _: int) -> None:
        """Scores test rows."""
        self._collect("test", batch)

    def predict_step(self, batch: dict[str, Tensor], _: int) -> dict[str, Tensor]:
        """Row numbers and scores of test rows."""
        return {"row": batch["row"], "score": self.score_activations(self.features["test"][batch["row"].cpu()])}

    def on_validation_epoch_end(self) -> None:
        """Evaluates every layer on validation and chooses one."""
        if self.trainer.sanity_checking:
            return
        estimates = self._evaluate("validation").estimates["spearman"]
        layers = self.extractor.layers
        gaps = self.relative_gap()
        self.chosen_layer = choose_layer(
            {k: estimates[f"layer_{k}"] for k in layers}, dict(zip(layers, gaps.tolist(), strict=True))
        )
        self.log("val/chosen_layer", float(self.chosen_layer))
        self.log("val/spearman", estimates[f"layer_{self.chosen_layer}"].value)

    def on_test_epoch_end(self) -> None:
        """Evaluates every layer on test; the layer was chosen before."""
        self._evaluate("test")

    @abstractmethod
    def relative_gap(self) -> Tensor:
        """Class gap over residual norm `[L]`: decides between layers that validation cannot tell apart."""

    def _evaluate(self, split: Literal["validation", "test"]) -> Evaluation:
        rows, scores = self._collected.compute()
        self._collected.reset()
        assert (rows == np.arange(len(self.data.rows[split]))).all(), "every row is scored once"
        columns = {f"layer_{k}": scores[:, i] for i, k in enumerate(self.extractor.layers)} | self.controls(split)
        judge = EvaluationSet(self.data.rows[split])
        result = judge.evaluate(columns, to_numpy(self.features[split].n_tokens))
        if split not in self.bands:
            self.bands[split] = self._random_band(split, judge)
        if split == "test" and self.chosen_layer >= 0:
            ours = columns[f"layer_{self.chosen_layer}"]
            self.margins = {name: judge.difference(ours, columns[name]) for name in CONTROLS}
            self.people = judge.people(ours)
        self.results[split], self.scored[split] = result, scores
        prefix = "val" if split == "validation" else "test"
        for metric, by_column in result.estimates.items():
            self.log_dict({f"{prefix}/{metric}/{name}": estimate.value for name, estimate in by_column.items()})
        return result

    def controls(self, split: Split) -> dict[str, Floats]:
        """Scores `[N]` of the cheap rivals on a split; they do not change with the epoch."""
        if split not in self._controls:
            self._controls[split] = self._score_controls(split)
        return self._controls[split]

    def _score_controls(self, split: Split) -> dict[str, Floats]:
        texts = {s: [row.passage(self.span).pooled for row in self.data.rows[s]] for s in ("train", split)}
        labels = [int(row.truth) for row in self.data.rows["train"]]
        return {
            "length": to_numpy(self.features[split].n_tokens),
            "bag_of_words": bag_of_words_scores(texts["train"], labels, texts[split]),
        }

    def _random_band(self, split: Split, judge: EvaluationSet) -> Floats:
        def spearman_of(split: Split, judge: EvaluationSet) -> Floats:
            unit_mean = self.features[split].unit_mean
            vectors = random_directions(N_RANDOM, self.extractor.layers, unit_mean.shape[-1], seed=0)
            return judge.spearman(to_numpy(torch.einsum("nld,rld->nlr", unit_mean, vectors)))

        chosen_on = spearman_of("validation", EvaluationSet(self.data.rows["validation"]))
        return random_band(chosen_on, chosen_on if split == "validation" else spearman_of(split, judge))

    # -- remembering --------------------------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keeps what the weights mean: the method, how it read, and the chosen layer."""
        checkpoint["scorer"] = self.identity() | {"chosen_layer": self.chosen_layer}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Takes the chosen layer back; refuses a checkpoint of another method, reading or model."""
        theirs = dict(checkpoint.get("scorer", {}))
        layer = theirs.pop("chosen_layer", -1)
        if theirs != self.identity():
            differing = [k for k, v in self.identity().items() if theirs.get(k) != v]
            raise ProbeError(
                f"the checkpoint was made with another {', '.join(differing)} (found {[theirs.get(k) for k in differing]}, "
                f"the config says {[self.identity()[k] for k in differing]}); use the config of its run folder."
            )
        self.chosen_layer = layer

    def identity(self) -> dict[str, Any]:
        """What has to agree before weights may be loaded."""
        return {
            "method": type(self).__name__,
            "span": self.span,
            "pooling": self.pooling,
            "layers": list(self.extractor.layers),
            "lm_fingerprint": self.lm.fingerprint,
        }

    def provenance(self) -> dict[str, Any]:
        """Where this scorer comes from, for everything it saves."""
        pairs = self.data.pairs["train"]
        return {
            **self.identity(),
            "lm": self.lm_spec.model,
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
    return {name: version(name) for name in ("probe", "torch", "transformers", "lightning", "safetensors")}
