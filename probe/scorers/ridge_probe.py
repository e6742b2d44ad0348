"""Ridge regression on standardised activations: the probe that learns how much, not only which, from people's ratings."""

import torch

from probe.scorers.linear_head import LinearHead
from probe.scorers.ridge import ridge


class RidgeProbe(LinearHead):
    """Least squares with a penalty |w|^2, per layer, on ratings, or on 1 and 0 for the sides of pairs.

    The score is what it predicts.

    The penalty of each layer is the one with the least leave-one-out error on the training texts, in closed form.
    """

    def finish_epoch(self) -> None:
        """Fits one layer after the other."""
        super().finish_epoch()
        truth = torch.tensor([row.truth for row in self.data.rows["train"]])
        for i, x in enumerate(self.features["train"].by_layer(self.pooling)):
            self.centre[i], self.scale[i] = x.mean(0), x.std(0, correction=0).clamp_min(1e-12)
            weight, bias = ridge((x - self.centre[i].cpu()) / self.scale[i].cpu(), truth)
            self.weight.data[i], self.bias.data[i] = weight, bias
