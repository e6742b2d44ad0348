"""How to steer: as was asked for, else as the direction recommends."""

from collections.abc import Sequence
from dataclasses import replace

from probe.directions.direction import Direction, Recommended, as_layers
from probe.errors import ProbeError
from probe.lm.operators import heeds_strength, operator_called
from probe.steering.settings import Steering


def asked_for(
    direction: Direction, said: Steering, strengths: Sequence[float] | None
) -> tuple[Recommended, list[float]]:
    """How, and how strongly; the last strength stands in the first, too.

    An operator that does not heed the strength acts at every layer of the direction where none is named.

    Raises:
        ProbeError: for what this direction cannot do.
    """
    how = direction.recommended
    how = replace(how, tokens=said.tokens or how.tokens, operator=said.operator or how.operator)
    if said.strength_unit and not strengths:
        raise ProbeError(
            f"strength_unit {said.strength_unit}: expected a strength beside it, found none; say how much."
        )
    if strengths:
        how = replace(how, unit=said.strength_unit or "dose")
    if not heeds_strength(operator_called(how.operator)):
        how, strengths = replace(how, layers=list(direction.layers), unit="absolute"), [1.0]
    if said.layer is not None:
        how = replace(how, layers=as_layers(said.layer))
    for layer in how.layers:
        direction.at(layer)
    if not how.layers:
        raise ProbeError(
            f"--layer: expected a chosen layer in this direction, found none; say which of {list(direction.layers)}."
        )
    all_of_them = list(strengths) if strengths else [how.strength]
    return replace(how, strength=all_of_them[-1]), all_of_them
