"""Types of options, which jsonargparse checks wherever a value comes from: each number has its range, a path may begin with ~.

To everything behind the parser they are int, float and str: a checkpoint that held another class could not be read back.
"""

import math
import operator
from collections.abc import Callable, Mapping
from os.path import expanduser
from types import NoneType
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

from jsonargparse.typing import register_type, restricted_number_type, restricted_string_type

if TYPE_CHECKING:
    Finite = float
    NonNegativeFloat = float
    PositiveFloat = float
    AtLeastOne = float
    Share = float
    AtLeastTwo = int
    NonNegativeInt = int
    PositiveInt = int
    Seed = int
    Port = int
    FilePath = str
    KeyVariable = str
else:

    def _plain(kind: type, make: Callable[[Any], Any], base: type) -> type:
        register_type(kind, serializer=base, deserializer=lambda v: base(make(v)), type_check=lambda v, t: False)
        return kind

    def _number(name: str, base: type, *restrictions: tuple[str, float]) -> type:
        kind = restricted_number_type(name, base, list(restrictions))
        return _plain(kind, kind, base)

    PositiveInt = _number("PositiveInt", int, (">", 0))
    NonNegativeInt = _number("NonNegativeInt", int, (">=", 0))
    AtLeastTwo = _number("AtLeastTwo", int, (">=", 2))
    Seed = _number("Seed", int, (">=", 0), ("<", 2**32))
    Port = _number("Port", int, (">=", 0), ("<", 2**16))
    Finite = _number("Finite", float, (">", -math.inf), ("<", math.inf))
    PositiveFloat = _number("FinitePositive", float, (">", 0), ("<", math.inf))
    NonNegativeFloat = _number("FiniteNonNegative", float, (">=", 0), ("<", math.inf))
    AtLeastOne = _number("AtLeastOne", float, (">=", 1), ("<", math.inf))
    Share = _number("OpenUnitInterval", float, (">", 0), ("<", 1))

    class FilePath(str):
        """A path; `~` is the home folder, also in a config, where no shell expands it."""

    _plain(FilePath, expanduser, str)
    KeyVariable = restricted_string_type("KeyVariable", r"^[A-Za-z0-9_]*(_API_KEY|_TOKEN)\Z")
    _plain(KeyVariable, KeyVariable, str)


SIGNS = {operator.gt: ">", operator.ge: ">=", operator.lt: "<", operator.le: "<="}


def choices_of(kind: Any) -> list[str]:
    """The words that a type allows, where it names them."""
    inner = [choice for part in get_args(kind) if get_origin(kind) is not Literal for choice in choices_of(part)]
    return [str(word) for word in get_args(kind)] if get_origin(kind) is Literal else inner


def in_words(kind: Any) -> str:
    """What a type allows, as a person would say it: `prompt, reply or response`, `int > 0`, `a list`."""
    origin, parts = get_origin(kind), get_args(kind)
    if origin is Literal:
        return _or([str(word) for word in parts])
    if origin is tuple and Ellipsis not in parts:
        return f"a list of {len(parts)}, each {in_words(parts[0])}"
    if origin is None or kind in (bool, NoneType):
        return {bool: "true or false", NoneType: "null"}.get(kind) or _restricted(kind)
    if issubclass(origin if isinstance(origin, type) else object, Mapping):
        return "a mapping, such as {name: value}"
    if isinstance(origin, type) and origin.__name__ in ("list", "Sequence", "set", "tuple"):
        return f"a list in brackets, each {in_words(parts[0])}"
    return _or([in_words(part) for part in parts])


def _restricted(kind: Any) -> str:
    limits = [(SIGNS[way], value) for way, value in getattr(kind, "_restrictions", ()) if abs(value) < math.inf]
    bounds = " and ".join(f"{sign} {value:.12g}" for sign, value in limits)
    return f"{getattr(kind, '_type', kind).__name__} {bounds}".strip()


def _or(words: list[str]) -> str:
    return " or ".join([", ".join(words[:-1]), words[-1]] if words[1:] else words)
