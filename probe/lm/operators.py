"""What steering does to a state: an operator takes h and a vector v, and gives the state that goes on.

Adding one is one function and one line in `OPERATORS`; a `--plugin` names its own as PACKAGE.FUNCTION.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from probe.options.named import named

if TYPE_CHECKING:
    from torch import Tensor

Operator = Callable[["Tensor", "Tensor"], "Tensor"]
"""States h `[B, T, D]` and vectors v `[B, 1, D]` or `[D]`, v = lambda * a with a unit direction a -> states `[B, T, D]`.

It need not care for tokens, nor for rows without a vector: `hooks.edit` leaves those as they are.
"""


def plus(h: "Tensor", v: "Tensor") -> "Tensor":
    """h + lambda a. Source: Olson et al. 2024, arXiv 2412.06060, section 3."""
    return h + v


def without(h: "Tensor", v: "Tensor") -> "Tensor":
    """h - a (a . h), however long v is. Source: Arditi et al. 2024, arXiv 2406.11717, equation 4."""
    a: Tensor = v / v.norm(dim=-1, keepdim=True)
    return h - a * (h * a).sum(-1, keepdim=True)


def clamp(h: "Tensor", v: "Tensor") -> "Tensor":
    """The component along a becomes lambda, whatever it was."""
    return plus(without(h, v), v)


def keeping_norm(operator: Operator) -> Operator:
    """The same change of direction, with h as long as before: what steering does to the size of a state is undone."""

    def kept(h: "Tensor", v: "Tensor") -> "Tensor":
        changed = operator(h, v)
        share: Tensor = h.norm(dim=-1, keepdim=True) / changed.norm(dim=-1, keepdim=True)
        return changed * share

    return kept


OPERATORS: dict[str, Operator] = {
    "plus": plus,
    "without": without,
    "clamp": clamp,
    "plus_keeping_norm": keeping_norm(plus),
    "clamp_keeping_norm": keeping_norm(clamp),
}


def operator_called(name: str) -> Operator:
    """The operator of a name.

    Raises:
        ProbeError: where there is none.
    """
    return named(name, OPERATORS, "--operator")


def heeds_strength(operator: Operator) -> bool:
    """Whether it matters how long v is; asked of the operator itself, so that none has to say."""
    import torch

    h, v = torch.tensor([[[1.0, 2.0, 3.0]]]), torch.tensor([0.5, 0.1, -0.2])
    return not torch.allclose(operator(h, v), operator(h, 3 * v))
