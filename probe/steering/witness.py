"""Who reads texts beside the clean re-score: a witness takes texts and their prompts, and gives named measures.

The one that supports a claim shares neither vector nor states with what steers. The built-in ones are in `witnesses/`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from probe.directions.direction import Direction
from probe.errors import ProbeError
from probe.lm.frozen import FrozenLM


@dataclass(frozen=True)
class Exhibit:
    """A text as a witness sees it; who wrote it, and whether it was steered, is not said."""

    prompt: str
    text: str
    plain: str | None
    """The unsteered text of the same prompt, where there is one."""


Witness = Callable[[Sequence[Exhibit]], Mapping[str, Sequence[float]]]
"""Texts -> a number for each by the name of the measure; nan where there is nothing to read.

It may have `tells`: which of its measures says how much of the concept is in a text. Then that one decides what steering
gained, in place of the clean re-score. It may also have `meet(case)`, which is told who steers before anything is written.
"""


@dataclass(frozen=True)
class Case:
    """Who steers, and what for."""

    lm: FrozenLM
    direction: Direction | None
    """None where it is an adapter that writes."""
    concept: str


SCORE = "score"
"""The clean re-score."""


def told_by(witnesses: Sequence[Witness]) -> str:
    """The measure that says what steering gained: that of the first witness who tells, else the clean re-score."""
    return next((tells for witness in witnesses if (tells := str(getattr(witness, "tells", "")))), SCORE)


def meet(witnesses: Sequence[Witness], case: Case) -> None:
    """Lets each witness know who steers.

    Raises:
        ProbeError: where one is none in this case.
    """
    for witness in witnesses:
        if hasattr(witness, "meet"):
            witness.meet(case)


def hear(witnesses: Sequence[Witness], written: Sequence[Exhibit], taken: Sequence[str]) -> list[dict[str, float]]:
    """What all witnesses say of each text.

    Args:
        witnesses: They.
        written: The texts.
        taken: Names that their measures may not have.

    Raises:
        ProbeError: where two measures have one name, or one has not a number for each text.
    """
    heard: list[dict[str, float]] = [{} for _ in written]
    names = [*taken]
    for witness in witnesses:
        for name, values in witness(written).items():
            if name in names or len(values) != len(written):
                wrong = "twice" if name in names else f"of {len(values)} texts"
                raise ProbeError(
                    f"--witness: expected each measure once, of {len(written)} texts, found {name!r} {wrong}."
                )
            names.append(name)
            for said, value in zip(heard, values, strict=True):
                said[name] = float(value)
    return heard
