"""Length: the score that every careless scorer turns into."""

from collections.abc import Sequence

import torch
from torch import Tensor

from probe.data.reading import Passage
from probe.scorers.measure import Measure


class Length(Measure):
    """The number of tokens."""

    def measure(self, passages: Sequence[Passage]) -> Tensor:
        """Tokens `[N]` of each text's span."""
        return torch.tensor([float(sum(encoded.pooled)) for encoded in self.lm.encoder.encode(passages)])
