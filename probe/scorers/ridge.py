"""Ridge regression in closed form, its penalty chosen by the error on each text that was left out."""

import torch
from torch import Tensor

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
