"""The cheap rivals that need no language model."""

from collections.abc import Sequence

import numpy as np
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from probe.metrics import Floats


def bag_of_words_scores(train_texts: Sequence[str], train_labels: Sequence[int], texts: Sequence[str]) -> Floats:
    """Scores `[N]` of a logistic regression on word counts, fitted on the training texts."""
    model = make_pipeline(CountVectorizer(token_pattern=r"\w+"), LogisticRegression(max_iter=2000))
    model.fit(list(train_texts), list(train_labels))
    return np.asarray(model.decision_function(list(texts)))
