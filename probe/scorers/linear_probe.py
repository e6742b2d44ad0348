"""A learned linear probe: logistic regression on standardised activations, all layers at once in the training loop."""

from typing import Any

import torch
from torch import Tensor

from probe.errors import ProbeError
from probe.lm.spec import LMSpec
from probe.options.types import PositiveFloat, PositiveInt
from probe.scorers.linear_head import LinearHead


class LinearProbe(LinearHead):
    """L2-regularised logistic regression per layer, fitted by L-BFGS on the full batch; the score is the logit.

    The loss is scikit-learn's, divided by N: mean log loss + |w|^2 / (2 C N), on standardised features.

    Args:
        lm: The language model to read; given once, in the `lm` section of a config.
        C: Inverse strength of the regularisation, as in scikit-learn.
        iterations: L-BFGS iterations in each epoch.
        reading: What to read and how to pool it, as `FrozenScorer` takes it.
    """

    def __init__(self, lm: LMSpec, *, C: PositiveFloat = 1.0, iterations: PositiveInt = 20, **reading: Any) -> None:  # noqa: N803
        super().__init__(lm, **reading)
        self.C, self.iterations = C, iterations

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """L-BFGS on all layers together: their losses are independent, so their sum has the same minimum."""
        batches = len(self.data.train_dataloader())
        if self.trainer.world_size > 1 or batches > 1:
            raise ProbeError(
                "LinearProbe is fitted by L-BFGS on the full batch in one process (it reads remembered activations and "
                f"takes seconds), found {self.trainer.world_size} processes and {batches} batches; "
                " set data.init_args.batch_size to 0 and trainer.devices to 1."
            )
        return torch.optim.LBFGS(
            [self.weight, self.bias],
            max_iter=self.iterations,
            history_size=20,
            tolerance_grad=1e-9,
            tolerance_change=0.0,
            line_search_fn="strong_wolfe",
        )

    def training_step(self, batch: dict[str, Tensor], _: int) -> None:
        """One L-BFGS run of `iterations` steps on the full batch."""
        activations, label = self.stream(batch)
        classed = label >= 0
        z = self.standardise(activations.pooled(self.pooling)[classed])
        target = label[classed].to(self.device, torch.float32)[:, None]
        optimizer = self.optimizers()

        def closure() -> Tensor:
            optimizer.zero_grad()  # type: ignore[union-attr]
            loss = self.losses(z, target).sum()
            self.manual_backward(loss)
            return loss

        optimizer.step(closure)  # type: ignore[union-attr]
        with torch.no_grad():
            losses = self.losses(z, target)
        self.log_dict({f"train/loss/layer_{k}": losses[i] for i, k in enumerate(self.extractor.layers)})
        self.log("train/loss", losses.mean(), prog_bar=True)

    def losses(self, z: Tensor, target: Tensor) -> Tensor:
        """scikit-learn's objective per layer `[L]`, over C N, for standardised features `[N, L, D]`."""
        logits = torch.einsum("nld,ld->nl", z, self.weight) + self.bias
        log_loss = torch.nn.functional.binary_cross_entropy_with_logits(
            logits, target.expand_as(logits), reduction="none"
        ).mean(0)
        return log_loss + self.weight.square().sum(-1) / (2 * self.C * len(z))
