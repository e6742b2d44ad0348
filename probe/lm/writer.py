"""Prompts to answers: a language model that writes, and says how surprising it found what it wrote."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from probe.data.reading import Passage
from probe.errors import ProbeError
from probe.lm.sampling import KeyedNoise
from probe.lm.tokens import PassageEncoder
from probe.lm.writing import NewTokens, Within, write


@dataclass(frozen=True)
class Written:
    """An answer."""

    text: str
    nll: float
    """Mean -log p of its tokens under the model as it wrote, at temperature 1; nan where it is read as other tokens."""


class Writer(ABC):
    """What answers prompts; FrozenLM is one."""

    model: PreTrainedModel
    writes_in_batches: bool

    @property
    @abstractmethod
    def encoder(self) -> PassageEncoder:
        """Prompts to token ids."""

    def generate(
        self, prompts: Sequence[str], max_new_tokens: int, temperature: float, seed: int | Sequence[int]
    ) -> list[str]:
        """Answers prompts in one batch, as `write` does."""
        return [written.text for written in self.write(prompts, max_new_tokens, temperature, seed)]

    @torch.inference_mode()
    def write(
        self,
        prompts: Sequence[str],
        max_new_tokens: int,
        temperature: float,
        seed: int | Sequence[int],
        follow: Callable[[list[str]], None] | None = None,
        within: Within | None = None,
        alike: Sequence[Hashable] | None = None,
    ) -> list[Written]:
        """Answers prompts in one left-padded batch; temperature 0 is greedy.

        A row's noise depends on its own seed and prompt alone; the global random state is untouched.

        Args:
            prompts: What is asked.
            max_new_tokens: Length limit of an answer.
            temperature: Of the sampling.
            seed: One, or one for each row.
            follow: Is told the texts so far after each token.
            within: Steering of some of the rows, told whether their prompts are behind them.
            alike: What is done to each row's prompt; equal prompts to which the same is done are read once.
        """
        encoder = self.encoder
        rows = encoder.ids([encoder.render(prompt) for prompt in prompts])
        longest = max(map(len, rows))
        if not self.writes_in_batches and min(map(len, rows)) < longest:
            raise ProbeError(
                f"{encoder.spec.model}: expected prompts of one length, since its texts depend on the padding before a prompt, "
                f"found {len(rows)} of unlike length; ask them one at a time."
            )
        if longest + max_new_tokens > encoder.max_tokens:
            raise ProbeError(
                f"a prompt of {longest} tokens leaves no room for {max_new_tokens} new ones within the {encoder.max_tokens} of "
                f"{encoder.spec.model}; shorten it, or lower --max_new_tokens."
            )
        seeds = [seed] * len(prompts) if isinstance(seed, int) else seed
        noise = KeyedNoise(prompts, seeds, temperature, self.model.device) if temperature > 0 else None
        tell = (lambda new: follow(self._texts(new))) if follow else None
        new_tokens = write(self.model, rows, encoder.pad_id, max_new_tokens, noise, tell, within, alike)
        texts = self._texts([new.ids for new in new_tokens])
        return [
            Written(text, self._surprise(prompt, row, new, text))
            for prompt, row, new, text in zip(prompts, rows, new_tokens, texts, strict=True)
        ]

    def _texts(self, new: Sequence[Sequence[int]]) -> list[str]:
        return [
            str(text).strip()
            for text in self.encoder.tokenizer.batch_decode([*map(list, new)], skip_special_tokens=True)
        ]

    def _surprise(self, prompt: str, row: Sequence[int], new: NewTokens, text: str) -> float:
        if not text:
            return math.nan
        n = len(new.ids) - new.ended
        (read,) = self.encoder.encode([Passage(prompt, text)])
        same = read.ids == (*row, *new.ids[:n]) and read.pooled == (False,) * len(row) + (True,) * n
        return sum(new.surprise[:n]) / n if same else math.nan
