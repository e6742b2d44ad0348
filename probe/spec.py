"""LMSpec: which language model to read, said without loading anything heavy."""

from dataclasses import dataclass
from typing import Literal


@dataclass
class LMSpec:
    """Which language model to read, and how.

    Args:
        model: A Hugging Face id or a folder with config, safetensors weights and tokenizer.
        dtype: Number type of the weights; `auto` takes what the checkpoint holds.
        device: `auto` takes CUDA, then Apple's MPS, then the CPU.
        max_tokens: Longer texts are cut here, counted and reported; None takes the model's own limit.
        strict: Refuse over-long texts instead of cutting them.
        system: System message put before every instruction, where the chat template has one.
        trust_remote_code: Run code shipped with the model. Off unless you trust its authors.
    """

    model: str = "data/storyteller/lm0"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "float32"
    device: str = "auto"
    max_tokens: int | None = None
    strict: bool = False
    system: str | None = None
    trust_remote_code: bool = False
