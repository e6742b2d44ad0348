"""The cheap rival that sees no words: length, commas and the like."""

from collections.abc import Sequence

import numpy as np
import torch
from sklearn.linear_model import RidgeCV
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from probe.data.reading import Passage, Row, Span
from probe.metrics.ranks import Floats
from probe.metrics.texts import SURFACE, surface_features
from probe.scorers.measure import Measure


def fit_surface(rows: Sequence[Row], span: Span) -> Pipeline:
    """A ridge regression of the truth on the seven surface features."""
    features = [surface_features(row.passage(span).pooled) for row in rows]
    return make_pipeline(StandardScaler(), RidgeCV(np.logspace(-1, 3, 9))).fit(features, [row.truth for row in rows])


def surface_score(model: Pipeline, texts: Sequence[str]) -> Floats:
    """What the surface says `[N]` of each text."""
    return np.asarray(model.predict([surface_features(text) for text in texts]))


class SurfaceFeatures(Measure):
    """A ridge regression on seven numbers of a text's surface; fitted anew from the training texts, so no checkpoint holds it."""

    def build(self) -> None:
        """Fits the regression."""
        super().build()
        self.surface = fit_surface(self.data.rows["train"], self.span)

    @property
    def n_trainable(self) -> int:
        """A weight for each feature, and the intercept."""
        return len(SURFACE) + 1

    def measure(self, passages: Sequence[Passage]) -> Tensor:
        """What the surface says `[N]` of each text."""
        return torch.as_tensor(surface_score(self.surface, [passage.pooled for passage in passages]))
