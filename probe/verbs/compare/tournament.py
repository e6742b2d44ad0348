"""The tournament: every contestant fitted on every part of a cross-fitting, with Lightning, and no fit done twice."""

import hashlib
import itertools
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.utilities.seed import isolate_rng
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from probe.activations.extractor import ActivationExtractor
from probe.data.reading import Span, identity, pairs
from probe.data.splits import SplitRows
from probe.files import atomic_write, from_json
from probe.lm.spec import Contestant, LMSpec
from probe.metrics.evaluation import EvaluationSet
from probe.scorers import HasDirection, Scorer
from probe.scorers.abilities import Compares, HasShift
from probe.verbs.compare.code import code_of
from probe.verbs.compare.crossfit import CrossFit, Part
from probe.version import library_versions

FORMAT = 3
TIMED = 32
"""Texts that are scored anew, with nothing remembered, to say how many a second a scorer reads."""


@dataclass(frozen=True)
class Fit:
    """What is kept of one fit: its scores of the rows that it did not see, its direction, and what it cost."""

    tensors: dict[str, Tensor]
    """`scores/SET` `[n, C]` of the rows tested here, `preferred/SET` `[n]`, `crossed` `[P, 2, 2]`; `vectors` `[L, D]`,
    `shift` `[D]`."""
    facts: dict[str, Any]
    """Columns, the chosen one, settings taken from the grid, parameters, seconds, texts a second, a note."""


class FitStore:
    """A folder with one file per finished fit, named by texts, settings, model and code; written under a temporary name."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def load(self, key: str) -> Fit | None:
        """The fit of that key; None where there is none that can be read."""
        try:
            with safe_open(self._path(key), "pt") as file:
                facts, sealed = (file.metadata()[name] for name in ("facts", "sha256"))
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return Fit(tensors, from_json(facts)) if _seal(tensors, facts) == sealed else None
        except (OSError, SafetensorError, ValueError, KeyError, TypeError, RecursionError):
            return None

    def save(self, key: str, fit: Fit) -> None:
        """Writes the fit."""
        self.folder.mkdir(parents=True, exist_ok=True)
        tensors, facts = {name: tensor.contiguous() for name, tensor in fit.tensors.items()}, json.dumps(fit.facts)
        sealed = {"facts": facts, "sha256": _seal(tensors, facts)}
        atomic_write(self._path(key), lambda path: save_file(tensors, path, sealed))

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.safetensors"


def _seal(tensors: Mapping[str, Tensor], facts: str) -> str:
    """sha256 of all that is kept: safetensors itself does not notice a flipped byte."""
    digest = hashlib.sha256(facts.encode())
    for name in sorted(tensors):
        digest.update(name.encode() + tensors[name].contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


Build = Callable[[Contestant, LMSpec, Span, Mapping[str, Any]], Scorer]
"""Makes a scorer from its config with some arguments replaced; the command line does, which knows how to check them."""


class Tournament:
    """Fits contestants on one LM, part by part.

    Args:
        extractor: Reads the LM; what it has read is shared.
        crossfit: What is learned from and judged by.
        build: Makes a scorer from its config.
        store: Where finished fits are kept.
        seed: Of every fit.
    """

    def __init__(
        self,
        extractor: ActivationExtractor,
        crossfit: CrossFit,
        build: Build,
        store: FitStore,
        seed: int = 0,
    ) -> None:
        self.lm, self.extractor, self.crossfit = extractor.lm, extractor, crossfit
        self.build, self.store, self.seed = build, store, seed
        self.n_fitted = 0

    def fit(self, contestant: Contestant, contrast: str, part: Part) -> Fit:
        """Fits a contestant on a part, or takes the fit that was finished before."""
        span = self.crossfit.contrasts[contrast].span
        data = self.crossfit.training(contrast, part, contestant.batch_size, contestant.examples)
        key = self._key(contestant, data, span, part)
        fitted = self.store.load(key)
        if fitted is None:
            fitted = self._fit(contestant, data, span, part)
            self.store.save(key, fitted)
            self.n_fitted += 1
        return fitted

    def _fit(self, contestant: Contestant, data: SplitRows, span: Span, part: Part) -> Fit:
        started = time.perf_counter()
        scorer, settings = self._chosen(contestant, data, span)
        own = self.build(contestant, self.lm.spec, self.crossfit.span, settings).span
        facts = {
            "columns": list(scorer.columns),
            "chosen": scorer.chosen,
            "kind": scorer.kind,
            "settings": settings,
            "n_trainable": scorer.n_trainable,
            "fit_seconds": time.perf_counter() - started,
            "texts_per_second": None,
            "layers": list(scorer.extractor.layers),
            "span": own,
        }
        tensors: dict[str, Tensor] = {}
        if isinstance(scorer, HasDirection):
            tensors["vectors"] = scorer.direction().vectors
        if part.kind == "fold":
            self._examine(scorer, own, part.index, tensors, facts)
        facts["note"] = scorer.note  # after all questions were asked
        scorer.release()
        return Fit(tensors, facts)

    def _chosen(self, contestant: Contestant, data: SplitRows, span: Span) -> tuple[Scorer, dict[str, Any]]:
        """The scorer with the settings of its grid that rank validation best, fitted anew with them."""
        grid = contestant.grid
        candidates = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
        rho = []
        for settings in candidates if len(candidates) > 1 else ():
            scorer = self._trained(contestant, data, span, settings)
            column = scorer.scored["validation"][:, scorer.columns.index(scorer.chosen)]
            rho.append(float(np.nan_to_num(EvaluationSet(data.rows["validation"]).spearman(column), nan=-1.0)))
            scorer.release()  # before the next one changes the same LM
        best = candidates[int(np.argmax(rho))] if rho else candidates[0]
        return self._trained(contestant, data, span, best), best

    def _trained(self, contestant: Contestant, data: SplitRows, span: Span, settings: Mapping[str, Any]) -> Scorer:
        # A set with a span of its own is read over it, unless the contestant has one of its own that the set has, too.
        own = contestant.reading is not None and contestant.reading.span != "response"
        forced = {} if span == self.crossfit.span or own else {"span": span}
        scorer = self.build(contestant, self.lm.spec, span, {**settings, **forced})
        scorer.extractor = (
            self.extractor
            if scorer.wanted_layers is None
            else ActivationExtractor(self.lm, scorer.wanted_layers, self.extractor.store)
        )
        with isolate_rng():
            L.seed_everything(self.seed, verbose=False)
            L.Trainer(
                accelerator={"cuda": "gpu"}.get(self.lm.device.type, self.lm.device.type),
                devices=1,
                max_epochs=contestant.epochs,
                logger=False,
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
                num_sanity_val_steps=0,
                use_distributed_sampler=False,
            ).fit(scorer, datamodule=data)
        return scorer

    @torch.no_grad()
    def _examine(self, scorer: Scorer, own: Span, fold: int, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
        """Scores every row of the fold in every test set; a passage that stands in several is read once."""
        in_test = {
            name: [read[row] for row in self.crossfit.rows_in(name, fold)]
            for name in self.crossfit.tests
            if (read := self.crossfit.passages(name, own))
        }
        cells = self.crossfit.crossed(fold)
        everything = list(dict.fromkeys([p for passages in in_test.values() for p in passages] + cells))
        scores = scorer.score(everything)
        number = {passage: i for i, passage in enumerate(everything)}
        for name, passages in in_test.items():
            if not passages:
                continue
            tensors[f"scores/{name}"] = scores[[number[p] for p in passages]]
            if isinstance(scorer, Compares) and self.crossfit.tests[name].compared:
                tested = [self.crossfit.tests[name].rows[row] for row in self.crossfit.rows_in(name, fold)]
                first, second = ([passages[i] for i in numbers] for numbers in pairs(tested).T)
                tensors[f"preferred/{name}"] = scorer.prefer(first, second)
                facts.setdefault("position_bias", {})[name] = scorer.position_bias(first, second)
        if cells:
            column = scorer.columns.index(scorer.chosen)
            tensors["crossed"] = scores[[number[p] for p in cells], column].reshape(-1, 2, 2)
        here = in_test[self.crossfit.judged_on] or everything
        if isinstance(scorer, HasShift):
            tensors["shift"], facts["shift_layer"] = scorer.shift(here), scorer.chosen_layer
        if fold == 0:
            scorer.extractor = ActivationExtractor(self.lm, scorer.extractor.layers)  # remembers nothing
            started = time.perf_counter()
            scorer.score(here[:TIMED])
            facts["texts_per_second"] = len(here[:TIMED]) / (time.perf_counter() - started)

    def _key(self, contestant: Contestant, data: SplitRows, span: Span, part: Part) -> str:
        scorer = self.build(contestant, self.lm.spec, span, {})
        tested = (
            [
                [name, [identity(test.rows[i]) for i in self.crossfit.rows_in(name, part.index)]]
                for name, test in self.crossfit.tests.items()
            ]
            if part.kind == "fold"
            else []
        )
        what = [
            FORMAT,
            asdict(contestant),
            code_of(type(scorer)),
            library_versions() | {name: version(name) for name in ("scikit-learn", "numpy")},
            [self.lm.fingerprint, self.lm.device.type, self.lm.encoder.reading, asdict(self.lm.spec)],
            [span, str(part), self.seed, data.concept],
            {split: [identity(row) for row in rows] for split, rows in data.rows.items()},
            tested,
        ]
        return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:40]
