"""Type-token ratio: how many of a text's words are different ones."""

from collections.abc import Sequence

import torch
from torch import Tensor

from probe.data.reading import Passage
from probe.metrics.texts import type_token_ratio
from probe.scorers.measure import Measure


class TypeTokenRatio(Measure):
    """Different words over all words, in lower case."""

    def measure(self, passages: Sequence[Passage]) -> Tensor:
        """The ratio `[N]` of each text."""
        return torch.tensor([type_token_ratio(passage.pooled) for passage in passages], dtype=torch.float64)
