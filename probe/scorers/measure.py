"""What the scorers without activations share: one number of a text, and the sign that training pairs give it."""

from abc import abstractmethod
from collections.abc import Callable, Hashable, Sequence
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from probe.data.reading import Passage
from probe.metrics.ranks import spearman, to_numpy
from probe.scorers.base import Scorer

Asked = TypeVar("Asked", bound=Hashable)


class Measure(Scorer):
    """A number of a text; whether more of it means more creative is learned from the training texts, nothing else is."""

    sign: torch.nn.Parameter

    def build(self) -> None:
        """Makes the sign."""
        self.sign = torch.nn.Parameter(torch.ones((), dtype=torch.float64))

    @abstractmethod
    def measure(self, passages: Sequence[Passage]) -> Tensor:
        """The number `[N]` of each text."""

    def remembered(self, what: Hashable, asked: Sequence[Asked], read: Callable[[list[Asked]], Tensor]) -> Tensor:
        """`read(asked)` `[N, ...]`, but what was asked for before, under the same name and extractor, is not read again.

        The extractor stands for one unchanged model: the folds of a cross-fitting share it and ask for the same texts.
        """
        known = self.extractor.answers
        new = [one for one in dict.fromkeys(asked) if (what, one) not in known]
        if new:
            known.update(zip(((what, one) for one in new), read(new).tolist(), strict=True))
        return torch.tensor([known[what, one] for one in asked], dtype=torch.float64)

    def on_train_epoch_start(self) -> None:
        """Gives the measure the sign that ranks the training texts better than chance."""
        rows = self.data.rows["train"]
        values = to_numpy(self.measure([row.passage(self.span) for row in rows]))
        rho = spearman(values, np.array([row.truth for row in rows]))[0]
        self.sign.data.fill_(-1.0 if rho < 0 else 1.0)

    def score(self, passages: Sequence[Passage]) -> Tensor:
        """The measure with its sign `[N, 1]`."""
        return (self.sign.detach() * self.measure(passages).to(self.sign))[:, None]
