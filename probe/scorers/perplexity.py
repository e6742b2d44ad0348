"""Perplexity: does the model find the text surprising, rather than creative?"""

from collections.abc import Sequence

from torch import Tensor

from probe.data.reading import Passage
from probe.progress import working
from probe.scorers.measure import Measure


class Perplexity(Measure):
    """The text's mean negative log-likelihood under the LM, in nats per token: the logarithm of its perplexity."""

    def measure(self, passages: Sequence[Passage]) -> Tensor:
        """Nats per token `[N]` of each text's span."""
        return self.remembered("nll", passages, self._read)

    def _read(self, passages: Sequence[Passage]) -> Tensor:
        with working("measuring", len(passages), "texts") as advance:
            return self.lm.nll(passages, advance=advance)
