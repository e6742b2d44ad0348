"""What is done at each step of generation: noise keyed by (seed, prompt, step), and word of the tokens so far.

Texts that differ in strength alone share their random numbers.
"""

import hashlib
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from transformers import LogitsProcessor


class KeyedNoise(LogitsProcessor):
    """Turns greedy decoding into sampling: the arg max of logits / temperature + Gumbel noise is a draw from their softmax.

    Each row has its own stream of noise, keyed by its seed and its prompt, one draw a step; so neither the other rows of
    the batch nor the global random state matter, and common random numbers make two strengths comparable.
    Source: Gumbel 1954; Maddison et al. 2014, "A* Sampling", arXiv 1411.0030.

    Args:
        prompts: Prompt of each row.
        seeds: Seed of each row.
        temperature: Above 0.
        device: Where the noise is drawn; another kind of device draws other numbers.
    """

    def __init__(
        self, prompts: Sequence[str], seeds: Sequence[int], temperature: float, device: torch.device | str = "cpu"
    ) -> None:
        keys = [f"{seed} {prompt}" for seed, prompt in zip(seeds, prompts, strict=True)]
        unique = {key: i for i, key in enumerate(dict.fromkeys(keys))}
        self.stream_of_row = torch.tensor([unique[key] for key in keys], device=device)
        self.streams = [torch.Generator(device).manual_seed(_hash(key)) for key in unique]
        self.temperature, self.device = temperature, device

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scores `[B, V]` of the next token with temperature and noise."""
        nothing = torch.empty(scores.shape[-1], device=self.device)
        drawn = [torch.empty_like(nothing).exponential_(generator=stream) for stream in self.streams]
        gumbel = -torch.stack(drawn).clamp_min(torch.finfo(torch.float32).tiny).log()
        return scores.float() / self.temperature + gumbel[self.stream_of_row].to(scores.device)


def _hash(key: str) -> int:
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big", signed=True)


class Follower:
    """A streamer of transformers for whole batches: it is handed the prompts first, then one token of each row a step.

    Args:
        tell: Given the new tokens `[B, T]` so far after each step.
    """

    def __init__(self, tell: Callable[[Tensor], None]) -> None:
        self.tell, self.seen = tell, list[Tensor]()

    def put(self, tokens: Tensor) -> None:
        """Takes the prompts, and then each step's tokens `[B]`."""
        self.seen.append(tokens)
        if len(self.seen) > 1:
            self.tell(torch.stack(self.seen[1:], 1))

    def end(self) -> None:
        """Nothing is left to tell."""
