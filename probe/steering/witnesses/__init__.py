"""The witnesses that are built in; one more is one file here and one line below, or a function of a plugin."""

from collections.abc import Callable
from typing import Any

from probe.options.named import named
from probe.steering.settings import Witnessed
from probe.steering.witness import Witness
from probe.steering.witnesses.asked import Asked
from probe.steering.witnesses.saved import Saved
from probe.steering.witnesses.storyteller import Storyteller
from probe.steering.witnesses.surface import surface

WITNESSES: dict[str, Callable[[str, Witnessed], Witness]] = {
    "storyteller": lambda _, __: Storyteller(),
    "endpoint": lambda _, said: Asked(said.endpoint),
    "surface": lambda _, __: surface,
    "scorer": lambda run, _: Saved(run),
}
"""Name -> how it is made, from what stands behind the colon and from the section."""


def names_of(said: Witnessed) -> list[str]:
    """The witnesses that are asked for, by name: `surface`, `scorer:RUN`, or `PACKAGE.NAME` of a plugin.

    Raises:
        ProbeError: for one that there is not.
    """
    asked = [said.witness] if isinstance(said.witness, str) else said.witness
    names = [name for name in dict.fromkeys(asked) if name != "none"]
    for name in names:
        named(name.partition(":")[0], WITNESSES, "--witness")
    return names


def witnesses(said: Witnessed) -> list[Witness]:
    """Those that are asked for.

    Raises:
        ProbeError: for one that there is not, or that cannot be asked.
    """
    return [_called(name, said) for name in names_of(said)]


def _called(name: str, said: Witnessed) -> Witness:
    kind, _, argument = name.partition(":")
    heard: Any = named(kind, WITNESSES, "--witness")
    if kind in WITNESSES:
        witness: Witness = heard(argument, said)
        return witness
    of_plugin: Witness = heard() if isinstance(heard, type) else heard
    return of_plugin
