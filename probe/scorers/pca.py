"""The principal direction of the pairs' differences, uncentred, as representation engineering reads it."""

import torch
from torch import Tensor

from probe.activations.pooling import Activations
from probe.data.reading import pairs
from probe.directions.direction import cosine_scores
from probe.scorers.directional import DirectionalScorer


def principal_axis(differences: Tensor) -> Tensor:
    """First principal axis `[D]` of differences `[N, D]` and their negatives, on the side where most of them lie.

    Source: Zou et al. 2023, "Representation Engineering", arXiv 2310.01405, section 3.1.
    """
    axis: Tensor = torch.linalg.svd(differences.double(), full_matrices=False).Vh[0]
    along = differences.double() @ axis
    votes = along.sign().sum() or along.sum()  # as many on either side: their mean decides
    return -axis if votes < 0 else axis


class PCA(DirectionalScorer):
    """First principal axis of the differences h+ - h- and their negatives, with the sign that ranks most pairs right.

    Not centred: subtracting the mean of the differences would take out the mean difference itself, which is what is
    looked for. The score is the mean cosine of a text's states with the axis.
    """

    needs_pairs = True

    def finish_epoch(self) -> None:
        """Finds the axis at every layer."""
        super().finish_epoch()
        creative, uncreative = pairs(self.data.rows["train"]).T
        for i, h in enumerate(self.features["train"].by_layer(self.pooling)):
            self.weight.data[i] = principal_axis(h[creative].double() - h[uncreative])

    def unit_vectors(self) -> Tensor:
        """The axis."""
        return self.weight

    def score_activations(self, activations: Activations) -> Tensor:
        """s_k(x) = mean_t cos(h_k(x)_t, a_k)."""
        return cosine_scores(activations.pooled("unit_mean"), self.weight.cpu())
