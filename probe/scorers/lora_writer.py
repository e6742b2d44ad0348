"""LoRA as a writer: the LM learns to write the creative stories, whatever it is asked; the learned rival of steering."""

from collections.abc import Sequence

import torch
from torch import Tensor

from probe.data.reading import Passage
from probe.errors import ProbeError
from probe.progress import working
from probe.scorers.lora import LoRAScorer


class LoRAWriter(LoRAScorer):
    """Low-rank adapters in every block, trained by next-token loss on the creative story of each pair, after either instruction.

    So it learns what steering does: to answer a dull instruction with a creative story. The score of a text is how much
    more likely the writer finds it than the frozen LM does, in nats per token.
    """

    needs_pairs = True

    @property
    def deepest(self) -> int:
        """The last block: all of them write."""
        return self.lm.n_layers - 1

    def setup(self, stage: str) -> None:
        """Sees to the stories before anything is read."""
        bare = next((row for row in self.data.rows["train"] if row.response is None), None)
        if bare:
            raise ProbeError(
                f"LoRAWriter learns from stories: expected `response_creative` and `response_uncreative` in every pair, found "
                f"none for {bare.prompt[:60]!r}; add them, or use another scorer."
            )
        super().setup(stage)

    def prepare(self) -> None:
        """Tokenises the stories."""
        rows = self.data.rows["train"]
        stories = {row.pair: row.passage("response").response for row in rows if row.side == "creative"}
        self._encoded = self.lm.encoder.encode([Passage(row.prompt, stories[row.pair]) for row in rows])

    def training_step(self, batch: dict[str, Tensor], _: int) -> Tensor:
        """The mean next-token loss of the stories, in nats per token."""
        weight = (batch["label"] >= 0).float()
        losses = self.lm.loss([self._encoded[row] for row in batch["row"].tolist()])
        loss = (losses * weight).sum() / weight.sum().clamp_min(1)
        self.log("train/loss", loss, prog_bar=True)
        return loss

    @torch.no_grad()
    def score(self, passages: Sequence[Passage]) -> Tensor:
        """Nats per token `[N, 1]` by which the writer finds a text more likely than the frozen LM does."""
        self.to(self.lm.device)  # Lightning leaves its modules on the CPU when a run ends
        with working("scoring", 2 * len(passages), "texts") as advance:
            own = self.lm.nll(passages, advance=advance)
            with self.lm.adapted(0):
                return (self.lm.nll(passages, advance=advance) - own)[:, None]
