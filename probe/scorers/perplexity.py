"""Perplexity: does the model find the text surprising, rather than creative?"""

from collections.abc import Sequence

from torch import Tensor

from probe.rows import Passage
from probe.scorers.measure import Measure


class Perplexity(Measure):
    """The text's mean negative log-likelihood under the LM, in nats per token: the logarithm of its perplexity."""

    def measure(self, passages: Sequence[Passage]) -> Tensor:
        """Nats per token `[N]` of each text's span."""
        return self.remembered("nll", passages, self.lm.nll)
