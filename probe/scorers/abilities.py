"""What some scorers can do beside scoring; whoever asks for it looks for the ability, never for a class."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

from torch import Tensor

from probe.data.reading import Passage
from probe.directions.direction import Direction


@runtime_checkable
class HasDirection(Protocol):
    """A scorer that can say which way creativity lies in the residual stream."""

    def direction(self) -> Direction:
        """The unit direction at every layer."""


@runtime_checkable
class HasShift(Protocol):
    """A scorer that changes the model, and can say which way it moves the residual stream."""

    chosen_layer: int

    def shift(self, passages: Sequence[Passage]) -> Tensor:
        """Mean change `[D]` of the pooled state at the layer."""

    def save_pretrained(self, folder: Path) -> Path:
        """Writes the change as PEFT reads it."""


@runtime_checkable
class Compares(Protocol):
    """A scorer that judges two texts side by side, not each alone."""

    def prefer(self, one: Sequence[Passage], other: Sequence[Passage]) -> Tensor:
        """How much `one` is more creative than `other` `[N]`; 0 is a tie."""

    def position_bias(self, one: Sequence[Passage], other: Sequence[Passage]) -> float:
        """How much the first of two texts is preferred, whichever it is."""
