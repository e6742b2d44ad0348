"""Ridge regression on standardised activations: the probe that learns how much, not only which, from people's ratings."""

import numpy as np
import torch
from sklearn.linear_model import RidgeCV

from probe.metrics.ranks import to_numpy
from probe.scorers.linear_head import LinearHead

PENALTIES = np.logspace(0, 5, 11)


class RidgeProbe(LinearHead):
    """Least squares with a penalty |w|^2, per layer, on ratings, or on 1 and 0 for the sides of pairs.

    The score is what it predicts.

    The penalty of each layer is the one with the least leave-one-out error on the training texts, in closed form;
    scikit-learn's `RidgeCV`.
    """

    def finish_epoch(self) -> None:
        """Fits every layer."""
        super().finish_epoch()
        truth = np.array([row.truth for row in self.data.rows["train"]])
        z = to_numpy(self.standardise(self.features["train"].pooled(self.pooling)).cpu())
        for i in range(z.shape[1]):
            found = RidgeCV(PENALTIES).fit(z[:, i], truth)
            self.weight.data[i] = torch.as_tensor(found.coef_)
            self.bias.data[i] = float(found.intercept_)
