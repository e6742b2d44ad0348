"""The paper's scorer: the mean cosine of a text's states with the difference of class means."""

import torch
from torch import Tensor

from probe.activations import Activations
from probe.directions import cosine_scores, mean_difference
from probe.scorers.directional import DirectionalScorer


class MeanDifference(DirectionalScorer):
    """a_k = normalize(mean over creative texts of h_k - mean over uncreative texts of h_k), in closed form.

    Source: Olson et al. 2024, arXiv 2412.06060, section 3.
    """

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """An optimizer that moves nothing: it advances the global step, which checkpoints and TensorBoard count by."""
        return torch.optim.SGD([self.weight], lr=0.0)

    def training_step(self, batch: dict[str, Tensor], _: int) -> None:
        """Adds the batch to the class sums."""
        self.stream(batch)
        self.optimizers().step()  # type: ignore[union-attr]

    def finish_epoch(self) -> None:
        """Turns the sums into the direction."""
        super().finish_epoch()
        self.weight.data.copy_(mean_difference(self.residual_means)[0])

    def unit_vectors(self) -> Tensor:
        """The mean difference, normalised."""
        return self.weight

    def score_activations(self, activations: Activations) -> Tensor:
        """s_k(x) = mean_t cos(h_k(x)_t, a_k)."""
        return cosine_scores(activations.unit_mean, self.weight.cpu())
