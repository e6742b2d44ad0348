"""A scorer that `fit` or `try` left, ready to score texts: a run's, whoever asks it."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from probe.activations.extractor import ActivationExtractor
from probe.data.reading import Passage, Row, Span
from probe.data.rows import DEFAULT_PROMPT
from probe.directions.direction import Direction, cosine_scores
from probe.errors import ProbeError
from probe.lm.frozen import FrozenLM
from probe.lm.spec import LMSpec
from probe.logs import CHECKPOINT
from probe.scorers.base import Scorer
from probe.scorers.checkpoints import Checkpoint, read_checkpoint
from probe.scorers.restoring import RowsLearnedFrom, restore
from probe.scorers.settings import read_settings


class SavedScorer:
    """What reads in a run's folder. Its model is loaded when it is first needed.

    Args:
        folder: The run's folder.
        lm: The model; by default the one that the run was made with. It has to have the same weights.
    """

    def __init__(self, folder: str | Path, lm: LMSpec | None = None) -> None:
        self.folder, self._lm_spec = Path(folder), lm

    @cached_property
    def direction(self) -> Direction:
        """The direction that it found."""
        return Direction.load(self.folder)

    @cached_property
    def lm(self) -> FrozenLM:
        """Its language model, in the number type that it was read in."""
        if self._lm_spec:
            return FrozenLM.load(self._lm_spec)
        if not self.has_scorer:
            made = self.direction.provenance
            told: dict[str, Any] = {
                "system": made.get("lm_system"),
                "chat_template_kwargs": made.get("lm_chat_template_kwargs", {}),
            }
            return FrozenLM.load(LMSpec(made["lm"], made.get("lm_dtype", "auto"), **told))
        spec, made = LMSpec(**self._settings[2]["lm"]), self._checkpoint["scorer"]
        return FrozenLM.load(replace(spec, dtype=made.get("lm_dtype", spec.dtype)))

    @property
    def has_scorer(self) -> bool:
        """Whether a scorer was fitted; `try` leaves a direction alone, whose cosine is then the score."""
        return (self.folder / CHECKPOINT).is_file()

    @cached_property
    def scorer(self) -> Scorer:
        """Its scorer, with what it learned."""
        kind, data_kind, settings = self._settings
        data = RowsLearnedFrom(self._checkpoint["scorer"], data_kind(**settings["data"]))
        return restore(kind(lm=self.lm.spec, **settings["model"]), self.lm, self._checkpoint, data)

    @cached_property
    def _checkpoint(self) -> Checkpoint:
        return read_checkpoint(self.folder / CHECKPOINT)

    @cached_property
    def _settings(self) -> tuple[type[Scorer], Any, dict[str, dict[str, Any]]]:
        return read_settings(self.folder / "config.yaml")

    @property
    def span(self) -> Span:
        """Where its training texts were read."""
        return self.scorer.span if self.has_scorer else self.direction.provenance["span"]

    def passage(self, text: str | None, prompt: str = DEFAULT_PROMPT) -> Passage:
        """What is read of a text that answers a prompt; without a text the prompt is scored, as the run read its instructions.

        Raises:
            ProbeError: where the run has read no instructions.
        """
        if not text and self.span == "response":
            raise ProbeError(
                f"{self.folder} has read texts, not instructions: expected a text, found {prompt[:60]!r} alone."
            )
        return Row(prompt, text, "", 0.0, None if text else "creative").passage(self.span)

    def score(self, texts: Sequence[str | Passage], prompt: str = DEFAULT_PROMPT) -> list[float]:
        """Scores texts, raw, higher = more of the concept, in the column that was chosen on validation.

        Args:
            texts: The texts, or passages, whose prompt is known.
            prompt: What the texts answer.
        """
        passages = [text if isinstance(text, Passage) else self.passage(text, prompt) for text in texts]
        if not passages:
            return []
        with torch.no_grad():
            if self.has_scorer:
                self.scorer.forget()
                scores = self.scorer.score(passages)[:, self.scorer.columns.index(self.scorer.chosen)]
            else:
                layer = self._layer
                read = ActivationExtractor(self.lm, [layer])(passages)
                scores = cosine_scores(read.pooled("unit_mean"), self.direction.at(layer)[None])[:, 0]
        return [float(score) for score in scores]

    @property
    def _layer(self) -> int:
        if self.direction.chosen is None:
            raise ProbeError(f"{self.folder}: expected a direction whose layer was chosen, found none; fit it anew.")
        return self.direction.chosen
