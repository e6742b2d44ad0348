"""The cheap rival that reads words alone: what a language model must beat before anyone speaks of its inside."""

from collections.abc import Sequence

import numpy as np
import torch
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import Pipeline, make_pipeline
from torch import Tensor

from probe.data.reading import Passage, Row, Span
from probe.metrics.ranks import Floats
from probe.scorers.measure import Measure


def fit_bag_of_words(rows: Sequence[Row], span: Span) -> Pipeline:
    """A logistic regression on word counts for the sides of pairs; for ratings a ridge regression on tf-idf of words."""
    texts = [row.passage(span).pooled for row in rows]
    truth = np.array([row.truth for row in rows])
    if any(row.side for row in rows):
        return make_pipeline(CountVectorizer(token_pattern=r"\w+"), LogisticRegression(max_iter=2000)).fit(texts, truth)
    return make_pipeline(TfidfVectorizer(token_pattern=r"\w+", sublinear_tf=True), Ridge()).fit(texts, truth)


def words_score(words: Pipeline, texts: Sequence[str]) -> Floats:
    """The logit or the predicted rating `[N]` of each text."""
    says = words.decision_function if hasattr(words, "decision_function") else words.predict
    return np.asarray(says(list(texts)))


class BagOfWords(Measure):
    """What words alone say: the logit of a logistic regression on their counts, or a rating from their tf-idf.

    It is fitted anew from the training texts, so no checkpoint holds it.
    """

    def build(self) -> None:
        """Fits the regression."""
        super().build()
        self.words = fit_bag_of_words(self.data.rows["train"], self.span)

    @property
    def n_trainable(self) -> int:
        """A weight for each word, and the intercept."""
        return int(self.words[-1].coef_.size) + 1

    def measure(self, passages: Sequence[Passage]) -> Tensor:
        """The logit or the predicted rating `[N]` of each text."""
        return torch.as_tensor(words_score(self.words, [passage.pooled for passage in passages]))
