"""What a person asks for, said without loading anything heavy: which language model, which scorer, at what cost."""

from dataclasses import dataclass, field
from typing import Any, Literal

from probe.data.reading import Reading
from probe.options.types import FilePath, Finite, NonNegativeFloat, NonNegativeInt, PositiveInt, Seed, Share

Unit = Literal["dose", "gap", "norm", "absolute"]
"""Of a strength: doses (the length that costs a stated KL), class gaps, shares of the residual norm, or an absolute length."""
UNITS = {"dose": "doses", "gap": "class gaps", "norm": "of the residual norm", "absolute": "absolute"}
"""What a strength is a number of, in words."""

Tokens = Literal["all", "prompt", "generated"]
"""Which tokens are steered, in generation."""


@dataclass
class LMSpec:
    """Which language model to read, and how.

    Args:
        model: A Hugging Face id, a folder with config, safetensors weights and tokenizer, a GGUF file, a PEFT adapter's
            folder, or package:NAME/FILE for one of these inside an installed package.
        dtype: Number type of the weights; `auto` takes bfloat16 where it is fast (a GPU, or a CPU with AMX),
            else float32.
        device: `auto` takes CUDA, then Apple's MPS, then the CPU.
        max_tokens: Longer texts are cut here, counted and reported; None takes the model's own limit.
        strict: Refuse over-long texts instead of cutting them.
        system: System message put before every instruction; at its head where the chat template has no place for one.
        chat_template_kwargs: What the chat template is told, by the names of its variables, such as
            `{"enable_thinking": false}`; `chat_template` chooses among several of them by name.
        trust_remote_code: Run code shipped with the model. Off unless you trust its authors.
    """

    model: FilePath = "data/storyteller/lm0"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "float32"
    device: str = "auto"
    max_tokens: PositiveInt | None = None
    strict: bool = False
    system: str | None = None
    chat_template_kwargs: dict[str, bool | int | float | str | None] = field(default_factory=dict)
    trust_remote_code: bool = False


@dataclass(frozen=True)
class Contestant:
    """A scorer in the tournament.

    Args:
        scorer: Its class, by name or by path.
        args: Its arguments, but for `lm`.
        reading: Where it reads and how, where not as the others.
        contrast: What it learns from alone: `pairs`, or the name of a transfer set; by default from the pairs, and for the
            table of transfer from each of the other sets.
        examples: So many pairs or rated texts of each training fold to learn from, and a quarter as many to choose on, drawn
            at random; by default all of them (rated stories that choose stay whole). Fewer are among more, so that several
            contestants make a learning curve; these stand in no table of transfer.
        grid: Argument -> values to try; the best by Spearman on validation, inside the training groups, is taken.
        epochs: Training epochs.
        batch_size: Rows per batch; 0 is one batch of all.
    """

    scorer: str
    args: dict[str, Any] = field(default_factory=dict)
    reading: Reading | None = None
    contrast: str | None = None
    examples: PositiveInt | None = None
    grid: dict[str, list[Any]] = field(default_factory=dict)
    epochs: PositiveInt = 1
    batch_size: NonNegativeInt = 0


@dataclass(frozen=True)
class Budget:
    """What steering may cost, above the unsteered texts.

    Args:
        extra_nll: Nats per token under the clean model.
        repetition: Share of 4-grams that repeat.
    """

    extra_nll: Finite = 0.3
    repetition: NonNegativeFloat = 0.1


@dataclass
class ContrastFiles:
    """The files of a contrast set.

    Args:
        pairs: JSONL or CSV of contrastive pairs.
        validation_stories: Rated texts whose groups are validation, on which a layer is chosen.
        test_stories: Rated texts whose groups are test, on which the result is read.
    """

    pairs: FilePath
    validation_stories: FilePath | None = None
    test_stories: FilePath | None = None


@dataclass
class DataFiles(ContrastFiles):
    """The files that a direction was fitted with; its held-out groups give the prompts to steer on.

    Args:
        fractions: Share of groups for validation and for test where no stories decide it.
        seed: Splits groups.
    """

    fractions: tuple[Share, Share] = (0.2, 0.2)
    seed: Seed = 0
