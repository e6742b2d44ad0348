"""The version of this package, read from here by its build too, and those of the libraries and the code a result depends on."""

import ast
import hashlib
from collections.abc import Iterable
from functools import cache
from importlib.metadata import version
from pathlib import Path

__version__ = "0.1.0"

PACKAGE = Path(__file__).parent


def library_versions() -> dict[str, str]:
    """Versions of this package and of the libraries a result depends on."""
    others = ("torch", "transformers", "peft", "lightning", "safetensors")
    return {"probe": __version__} | {name: version(name) for name in others}


def hashes(files: Iterable[Path]) -> list[str]:
    """sha256 of each file."""
    return sorted(hashlib.sha256(file.read_bytes()).hexdigest() for file in files)


def closure(files: Iterable[Path]) -> set[Path]:
    """The files, every file of this package that they import, and those in turn: so no list of files can be out of date."""
    imported: set[Path] = set()
    waiting = list(files)
    while waiting:
        file = waiting.pop()
        if file not in imported:
            imported.add(file)
            waiting += _imported(file)
    return imported


@cache
def _imported(file: Path) -> tuple[Path, ...]:
    imports = (
        node for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))) if isinstance(node, ast.ImportFrom)
    )
    files: list[Path] = []
    for node in imports:
        if node.module and node.module.split(".")[0] == PACKAGE.name:
            module = PACKAGE.parent.joinpath(*node.module.split("."))
            names = [module / f"{alias.name}.py" for alias in node.names]
            files += filter(Path.is_file, [module.with_suffix(".py"), module / "__init__.py", *names])
    return tuple(files)
