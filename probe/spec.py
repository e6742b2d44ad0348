"""What a person asks for, said without loading anything heavy: which language model, which scorer, at what cost."""

from dataclasses import dataclass, field
from typing import Any, Literal


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


@dataclass(frozen=True)
class Contestant:
    """A scorer in the tournament.

    Args:
        scorer: Its class, by name or by path.
        args: Its arguments, but for `lm` and `span`.
        grid: Argument -> values to try; the best by Spearman on validation, inside the training groups, is taken.
        epochs: Training epochs.
        batch_size: Rows per batch; 0 is one batch of all.
    """

    scorer: str
    args: dict[str, Any] = field(default_factory=dict)
    grid: dict[str, list[Any]] = field(default_factory=dict)
    epochs: int = 1
    batch_size: int = 0


@dataclass(frozen=True)
class Budget:
    """What steering may cost, above the unsteered texts.

    Args:
        extra_nll: Nats per token under the clean model.
        repetition: Share of 4-grams that repeat.
    """

    extra_nll: float = 0.3
    repetition: float = 0.1


@dataclass
class DataFiles:
    """The files that a direction was fitted with; its held-out groups give the prompts to steer on.

    Args:
        pairs: JSONL or CSV of contrastive pairs.
        validation_stories: Rated texts whose groups are validation.
        test_stories: Rated texts whose groups are test.
        fractions: Share of groups for validation and for test where no stories decide it.
        seed: Splits groups.
    """

    pairs: str
    validation_stories: str | None = None
    test_stories: str | None = None
    fractions: tuple[float, float] = (0.2, 0.2)
    seed: int = 0


@dataclass
class Writing:
    """How texts are written and who reads them.

    Args:
        tokens: Which tokens are steered: all, those of the prompt, or those generated; all by default, or as a direction
            recommends.
        max_new_tokens: Length limit of a text.
        temperature: Sampling temperature; 0 is greedy.
        witness: `storyteller` lets the embedded model's grammar read the texts; `none` for any other model.
        seed: Of the sampling and of random directions.
    """

    tokens: Literal["all", "prompt", "generated"] | None = None
    max_new_tokens: int = 120
    temperature: float = 0.8
    witness: Literal["none", "storyteller"] = "none"
    seed: int = 0
