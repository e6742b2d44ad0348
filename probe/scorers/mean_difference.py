"""The paper's scorer: the mean cosine of a text's states with the difference of class means."""

from torch import Tensor

from probe.activations.pooling import Activations
from probe.directions.direction import cosine_scores, mean_difference
from probe.scorers.directional import DirectionalScorer


class MeanDifference(DirectionalScorer):
    """a_k = normalize(mean over creative texts of h_k - mean over uncreative texts of h_k), in closed form.

    Source: Olson et al. 2024, arXiv 2412.06060, section 3.
    """

    def finish_epoch(self) -> None:
        """Turns the sums into the direction."""
        super().finish_epoch()
        self.weight.data.copy_(mean_difference(self.residual_means)[0])

    def unit_vectors(self) -> Tensor:
        """The mean difference, normalised."""
        return self.weight

    def score_activations(self, activations: Activations) -> Tensor:
        """s_k(x) = mean_t cos(h_k(x)_t, a_k)."""
        return cosine_scores(activations.pooled("unit_mean"), self.weight.cpu())
