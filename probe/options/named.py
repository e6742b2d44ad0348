"""A thing by its name: one of ours, or `PACKAGE.NAME` of a package that the command line admitted with `--plugin`."""

import importlib
from collections.abc import Mapping
from typing import TypeVar

from probe.errors import ProbeError, did_you_mean

PLUGINS = set[str]()
"""Packages that the person who typed the command admitted; a config admits none."""
T = TypeVar("T")


def named(name: str, ours: Mapping[str, T], option: str) -> T:
    """What a name means.

    Raises:
        ProbeError: where it is nobody's, or of a package that was not admitted.
    """
    if name in ours:
        return ours[name]
    module, _, last = name.rpartition(".")
    if module and any(f"{module}.".startswith(f"{plugin}.") for plugin in PLUGINS):
        thing: T | None = getattr(importlib.import_module(module), last, None)
        if callable(thing):
            return thing
        raise ProbeError(f"{option} {name}: expected a function or class of {module}, found none; correct it.")
    if module:
        raise ProbeError(f"{option}: expected {', '.join(ours)}, found {name}; --plugin {module} admits others.")
    raise ProbeError(
        f"{option}: expected {', '.join(ours)}, found {name}{did_you_mean(name, ours) or '; --plugin PACKAGE admits others.'}"
    )
