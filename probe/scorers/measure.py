"""What the scorers without activations share: one number of a text, and the sign that training pairs give it."""

from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from probe.metrics import auroc, to_numpy
from probe.rows import Passage
from probe.scorers.base import Scorer


class Measure(Scorer):
    """A number of a text; whether more of it means more creative is learned from the training pairs, nothing else is."""

    sign: torch.nn.Parameter

    def build(self) -> None:
        """Makes the sign."""
        self.sign = torch.nn.Parameter(torch.ones((), dtype=torch.float64))

    @abstractmethod
    def measure(self, passages: Sequence[Passage]) -> Tensor:
        """The number `[N]` of each text."""

    def training_step(self, batch: dict[str, Tensor], _: int) -> None:
        """Gives the measure the sign that ranks the training texts better than chance."""
        rows = self.data.rows["train"]
        values = to_numpy(self.measure([row.passage(self.span) for row in rows]))
        area = auroc(values, torch.tensor([row.truth for row in rows]).numpy() == 1)[0]
        self.sign.data.fill_(-1.0 if area < 0.5 else 1.0)
        super().training_step(batch, _)

    def score(self, passages: Sequence[Passage]) -> Tensor:
        """The measure with its sign `[N, 1]`."""
        return (self.sign.detach() * self.measure(passages).to(self.sign))[:, None]
