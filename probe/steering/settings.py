"""How texts are written, steered and witnessed: each setting is said here once, for the command line and for Python."""

import math
from dataclasses import dataclass

from probe.errors import ProbeError
from probe.lm.chat import Endpoint
from probe.lm.operators import operator_called
from probe.lm.spec import Tokens, Unit
from probe.options.types import Finite, NonNegativeFloat, NonNegativeInt, PositiveInt, Seed


@dataclass(frozen=True)
class Sampling:
    """How texts are written.

    Args:
        max_new_tokens: Length limit of a text.
        temperature: Sampling temperature; 0 is greedy.
        seed: Keys the noise, with the prompt and the step: texts that differ in how they are steered share it.
        tokens: Which tokens are steered: all, those of the prompt, or those generated; all by default, or as a direction
            recommends.
        rows: Texts written at once: more is faster until memory ends.
    """

    max_new_tokens: PositiveInt = 120
    temperature: NonNegativeFloat = 0.8
    seed: Seed = 0
    tokens: Tokens | None = None
    rows: PositiveInt = 64

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise ProbeError(f"--max_new_tokens: expected 1 or more, found {self.max_new_tokens}; try 120.")
        if not 0 <= self.seed < 2**32:
            raise ProbeError(f"--seed: expected 0 to {2**32 - 1}, found {self.seed}; correct it.")
        if not 0 <= self.temperature < math.inf:
            raise ProbeError(f"--temperature: expected a finite number from 0, found {self.temperature}; 0 is greedy.")


@dataclass(frozen=True)
class Editing(Sampling):
    """How texts are written, and by what they are steered.

    Args:
        operator: What steering does to a state: plus (adds the direction), without (takes it out, whatever the strength), clamp
            (sets its component to the strength), plus_keeping_norm, clamp_keeping_norm, or PACKAGE.FUNCTION of a --plugin; plus
            by default, or as a direction recommends.
    """

    operator: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.operator is not None:
            operator_called(self.operator)


@dataclass(frozen=True)
class Steering(Editing):
    """How texts are written, by what they are steered, and where.

    Args:
        strength_unit: Of the strengths: dose (the length that costs a stated KL when it is added; measured where it is not
            known), gap (distance of the two classes), norm (share of the residual norm) or absolute; dose by default.
        layer: After which block, or a list of blocks that share the strength out; by default as the direction recommends.
    """

    strength_unit: Unit | None = None
    layer: NonNegativeInt | list[NonNegativeInt] | None = None


@dataclass(frozen=True)
class Witnessed:
    """Who reads the texts, beside the clean re-score.

    Args:
        witness: none, or one or several of: storyteller (the embedded model's grammar; for that model alone), surface (length,
            words, punctuation, and their distance from the plain texts), scorer:RUN (a saved scorer, best on another model),
            endpoint (a large model compares each text with the plain one), or PACKAGE.NAME of a --plugin.
        endpoint: Whom the witness `endpoint` asks.
    """

    witness: str | list[str] = "none"
    endpoint: Endpoint | None = None


@dataclass(frozen=True)
class Demonstration(Steering, Witnessed):
    """What is steered for all to see: the section `steering` of `fit` and of `stories`.

    Args:
        strengths: How much of the direction (or of an adapter under training); by default what the direction recommends, else
            one dose.
    """

    strengths: list[Finite] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not all(map(math.isfinite, self.strengths or ())):
            raise ProbeError(
                f"steering.strengths: expected finite numbers, found {self.strengths}; correct the config."
            )
