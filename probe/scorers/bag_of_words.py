"""The cheap rival that reads words alone: what a language model must beat before anyone speaks of its inside."""

from collections.abc import Sequence

import numpy as np
import torch
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from torch import Tensor

from probe.metrics import Floats
from probe.rows import Passage
from probe.scorers.measure import Measure


def bag_of_words_scores(train_texts: Sequence[str], train_labels: Sequence[int], texts: Sequence[str]) -> Floats:
    """Scores `[N]` of a logistic regression on word counts, fitted on the training texts."""
    model = make_pipeline(CountVectorizer(token_pattern=r"\w+"), LogisticRegression(max_iter=2000))
    model.fit(list(train_texts), list(train_labels))
    return np.asarray(model.decision_function(list(texts)))


class BagOfWords(Measure):
    """The logit of a logistic regression on word counts; fitted anew from the training texts, so no checkpoint holds it."""

    def measure(self, passages: Sequence[Passage]) -> Tensor:
        """The logit `[N]` of each text."""
        rows = self.data.rows["train"]
        texts = [row.passage(self.span).pooled for row in rows]
        return torch.tensor(bag_of_words_scores(texts, [int(row.truth) for row in rows], [p.pooled for p in passages]))
