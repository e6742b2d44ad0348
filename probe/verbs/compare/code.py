"""Which code a fit runs: read off the imports, so that no list of files can be out of date."""

import inspect
from pathlib import Path

from probe.scorers import Scorer
from probe.version import PACKAGE, closure, hashes

ALWAYS = [Path(__file__).with_name(f"{room}.py") for room in ("crossfit", "tournament")]
"""How any contestant is fitted. The tournament's own imports are not followed: it imports every scorer."""


def code_of(kind: type[Scorer]) -> list[str]:
    """sha256 of each file that a fit of this scorer runs: of ours what it imports, of a plugin's its whole package."""
    files = {Path(inspect.getfile(base)) for base in kind.__mro__ if issubclass(base, Scorer)}
    ours = {file for file in files if file.is_relative_to(PACKAGE)}
    theirs = {file for base in kind.__mro__ if issubclass(base, Scorer) for file in _package_of(base)} - ours
    return hashes(closure(ours) | theirs | set(ALWAYS))


def _package_of(kind: type) -> set[Path]:
    """All files of the package that a class of somebody else's stands in; of a module of its own, that file."""
    file = Path(inspect.getfile(kind))
    if file.is_relative_to(PACKAGE) or "." not in kind.__module__:
        return {file}
    depth = kind.__module__.count(".") - (file.stem != "__init__" and kind.__module__.endswith(file.stem))
    return set(file.parents[max(depth, 0)].rglob("*.py"))
