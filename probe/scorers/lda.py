"""Linear discriminant analysis: the mean difference, seen through the classes' common covariance."""

import numpy as np
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from torch import Tensor

from probe.activations.pooling import Activations
from probe.data.reading import labels
from probe.metrics.ranks import to_numpy
from probe.scorers.directional import DirectionalScorer


class LDA(DirectionalScorer):
    """w = S^-1 (mean creative - mean uncreative) with Ledoit-Wolf shrinkage of S; the score is the log odds w . h + b.

    Source: Ledoit and Wolf 2004, "A well-conditioned estimator for large-dimensional covariance matrices"; scikit-learn's
    `LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto")`.
    """

    bias: Tensor

    def build(self) -> None:
        """Adds the intercepts."""
        super().build()
        self.register_buffer("bias", torch.zeros(len(self.weight)))

    @property
    def n_trainable(self) -> int:
        """Coefficients and intercepts."""
        return self.weight.numel() + self.bias.numel()

    def finish_epoch(self) -> None:
        """Fits scikit-learn's LDA at every layer."""
        super().finish_epoch()
        label = np.array(labels(self.data.rows["train"]))
        classed = label >= 0
        for i, x in enumerate(self.features["train"].by_layer(self.pooling)):
            lda = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto").fit(to_numpy(x)[classed], label[classed])
            self.weight.data[i] = torch.as_tensor(lda.coef_[0])
            self.bias[i] = float(lda.intercept_[0])

    def unit_vectors(self) -> Tensor:
        """The coefficients, normalised."""
        return torch.nn.functional.normalize(self.weight, dim=-1)

    def score_activations(self, activations: Activations) -> Tensor:
        """The log odds at each layer."""
        h = activations.pooled(self.pooling)
        return torch.einsum("nld,ld->nl", h, self.weight.detach().cpu()) + self.bias.cpu()
