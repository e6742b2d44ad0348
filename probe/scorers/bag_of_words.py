"""The cheap rival that reads words alone: what a language model must beat before anyone speaks of its inside."""

from collections.abc import Sequence

import numpy as np
import torch
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from torch import Tensor

from probe.data.reading import Passage
from probe.metrics.ranks import Floats
from probe.scorers.measure import Measure


def fit_bag_of_words(texts: Sequence[str], labels: Sequence[int]) -> Pipeline:
    """A logistic regression on word counts."""
    model = make_pipeline(CountVectorizer(token_pattern=r"\w+"), LogisticRegression(max_iter=2000))
    return model.fit(list(texts), list(labels))


def bag_of_words_scores(train_texts: Sequence[str], train_labels: Sequence[int], texts: Sequence[str]) -> Floats:
    """Scores `[N]` of a logistic regression on word counts, fitted on the training texts."""
    return np.asarray(fit_bag_of_words(train_texts, train_labels).decision_function(list(texts)))


class BagOfWords(Measure):
    """The logit of a logistic regression on word counts; fitted anew from the training texts, so no checkpoint holds it."""

    def build(self) -> None:
        """Fits the regression."""
        super().build()
        rows = self.data.rows["train"]
        self.words = fit_bag_of_words([row.passage(self.span).pooled for row in rows], [int(row.truth) for row in rows])

    @property
    def n_trainable(self) -> int:
        """A weight for each word, and the intercept."""
        return int(self.words[-1].coef_.size) + 1

    def measure(self, passages: Sequence[Passage]) -> Tensor:
        """The logit `[N]` of each text."""
        return torch.as_tensor(self.words.decision_function([passage.pooled for passage in passages]))
