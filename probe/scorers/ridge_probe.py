"""Ridge regression on standardised activations: the probe that learns how much, not only which, from people's ratings."""

import torch
from torch import Tensor

from probe.scorers.linear_head import LinearHead

PENALTIES = torch.logspace(0, 5, 11, dtype=torch.float64)


def ridge(z: Tensor, truth: Tensor, penalties: Tensor = PENALTIES) -> tuple[Tensor, float]:
    """Coefficients `[D]` and intercept of least squares on states `[N, D]` with that penalty on |w|^2 that predicts best.

    Best is the least squared error on each text by the fit without it, (y - y^) / (1 - h), where h is the text's own share
    in its fitted value; one eigendecomposition of the D x D sums serves all penalties.

    Source: Golub, Heath and Wahba 1979, "Generalized Cross-Validation as a Method for Choosing a Good Ridge Parameter".
    """
    z, truth = z.double(), truth.double()
    centre, mean = z.mean(0), truth.mean()
    z, truth = z - centre, truth - mean
    if len(z) > z.shape[1]:
        variance, axes = torch.linalg.eigh(z.T @ z)
    else:  # no more axes than texts
        _, root, axes = torch.linalg.svd(z, full_matrices=False)
        variance, axes = root.square(), axes.T
    along = z @ axes
    inverse = 1 / (variance.clamp_min(0)[:, None] + penalties)  # [axes, penalties]
    on_axes = inverse * (along.T @ truth)[:, None]
    own_share = along.square() @ inverse + 1 / len(z)
    left_out = (truth[:, None] - along @ on_axes) / (1 - own_share)
    weight = axes @ on_axes[:, left_out.square().mean(0).argmin()]
    return weight, float(mean - centre @ weight)


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
