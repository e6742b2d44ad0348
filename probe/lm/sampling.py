"""How texts are generated: greedily, but for noise keyed by (seed, prompt, step), and with word of the tokens so far.

Texts that differ in strength alone share their random numbers.
"""

import hashlib
from collections.abc import Callable, Sequence
from copy import copy
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, PreTrainedModel, PreTrainedTokenizerBase


def framing_tokens(theirs: GenerationConfig | None, tokenizer: PreTrainedTokenizerBase) -> GenerationConfig:
    """All that a model's own generation config may say: which tokens begin, end and pad a text."""
    theirs = theirs or GenerationConfig()  # type: ignore[no-untyped-call]
    return GenerationConfig(  # type: ignore[no-untyped-call]
        bos_token_id=_tokens(theirs.bos_token_id, tokenizer.bos_token_id),
        eos_token_id=_tokens(theirs.eos_token_id, tokenizer.eos_token_id),
        pad_token_id=_tokens(tokenizer.pad_token_id, theirs.pad_token_id),
    )


def _tokens(*given: Any) -> int | list[int] | None:
    for ids in given:
        if isinstance(ids, int) or (isinstance(ids, list) and all(isinstance(token, int) for token in ids)):
            return ids
    return None


def padded(rows: Sequence[Sequence[int]], pad_id: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Token ids and mask `[B, T]` of rows padded on the left."""
    longest = max(map(len, rows))
    ids = [[pad_id] * (longest - len(row)) + [*row] for row in rows]
    mask = [[0] * (longest - len(row)) + [1] * len(row) for row in rows]
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)


def continued(
    model: PreTrainedModel,
    ids: Tensor,
    mask: Tensor,
    max_new_tokens: int,
    output_logits: bool = False,
    use_cache: bool = True,
    **options: Any,
) -> Any:
    """What transformers' `generate` returns for at most so many more tokens to each row."""
    generate: Any = model.generate
    return generate(
        input_ids=ids,
        attention_mask=mask,
        generation_config=GenerationConfig(  # type: ignore[no-untyped-call]
            max_new_tokens=max_new_tokens,
            return_dict_in_generate=True,
            output_logits=output_logits,
            use_cache=use_cache,
        ),
        **options,
    )


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

    def of(self, rows: Sequence[int]) -> "KeyedNoise":
        """The noise of some rows, which goes on where it is."""
        some = copy(self)
        streams, some.stream_of_row = torch.unique(self.stream_of_row[list(rows)], return_inverse=True)
        some.streams = [self.streams[i] for i in streams.tolist()]
        return some

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scores `[B, V]` of the next token with temperature and noise."""
        nothing = torch.empty(scores.shape[-1], device=self.device)
        drawn = [torch.empty_like(nothing).exponential_(generator=stream) for stream in self.streams]
        gumbel = -torch.stack(drawn).clamp_min(torch.finfo(torch.float32).tiny).log()
        return scores.float() / self.temperature + gumbel[self.stream_of_row].to(scores.device)


def _hash(key: str) -> int:
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big", signed=True)


class Draw(LogitsProcessor):
    """Draws each next token, and notes how surprising it was.

    Args:
        noise: None is greedy.
    """

    def __init__(self, noise: KeyedNoise | None) -> None:
        self.noise, self.surprise = noise, list[Tensor]()

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scores `[B, V]` of which the largest is drawn."""
        drawn = self.noise(input_ids, scores) if self.noise else scores
        chosen = scores.gather(-1, drawn.argmax(-1, keepdim=True))[:, 0]
        self.surprise.append(scores.float().logsumexp(-1) - chosen.float())
        return drawn


class Follower:
    """A streamer of transformers for whole batches: it is handed the prompts first, then one token of each row a step.

    Args:
        before: The tokens of all rows before.
        rows: Which of them are being continued.
        tell: Given the new tokens of all rows after each step.
    """

    def __init__(
        self, before: Sequence[Sequence[int]], rows: Sequence[int], tell: Callable[[list[list[int]]], None]
    ) -> None:
        self.ids, self.rows, self.tell, self.begun = [[*ids] for ids in before], rows, tell, False

    def put(self, tokens: Tensor) -> None:
        """Takes the prompts, and then each step's tokens `[B]`."""
        if self.begun:
            for row, token in zip(self.rows, tokens.tolist(), strict=True):
                self.ids[row].append(token)
            self.tell(self.ids)
        self.begun = True

    def end(self) -> None:
        """Nothing is left to tell."""
