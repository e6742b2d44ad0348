"""What the sections of `fit` may hold, read from the source of their classes: to import these would take seconds."""

import ast
import builtins
import importlib
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, get_type_hints

import docstring_parser

from probe.cli.plugins import DATA, SCORERS

SECTIONS = {
    "lm": ("probe.lm.spec", "LMSpec"),
    "data": ("probe.data.splits", "ContrastData"),
    "model": ("probe.scorers", "MeanDifference"),
    "steering": ("probe.steering.callback", "SteeringCallback"),
    "trainer": ("lightning.pytorch.trainer.trainer", "Trainer"),
}
"""Section -> module and class; for `model` any of SCORERS stands in for the class, for `data` any of DATA."""
LINKED = {"lm"}
"""An argument of a scorer that is a section of its own."""


@dataclass(frozen=True)
class Option:
    """An argument of a class: its type (None for what is Lightning's), its default and what the docstring says."""

    type: Any
    default: Any
    help: str


def options(section: str, made: str = "") -> dict[str, Option]:
    """The options of a section by name; those of `model` and `data` are of the class that is made."""
    module, name = SECTIONS[section]
    if section == "model" and made in SCORERS:
        name = made
    if section == "data" and made in DATA:
        module, name = DATA[made], made
    arguments = _arguments(module, name)
    return {k: v for k, v in arguments.items() if section != "model" or k not in LINKED}


@cache
def _arguments(module: str, name: str) -> dict[str, Option]:
    module = _home(module, name)
    made = next(node for node in _tree(module).body if isinstance(node, ast.ClassDef) and node.name == name)
    init = next((node for node in made.body if isinstance(node, ast.FunctionDef) and node.name == "__init__"), None)
    doc = ast.get_docstring(made) or ""
    given: dict[str, tuple[ast.expr | None, ast.expr | None]] = {}
    if init:
        doc += f"\n\n{ast.get_docstring(init) or ''}"
        positional = init.args.args[1:]
        defaults = [None] * (len(positional) - len(init.args.defaults)) + init.args.defaults
        given |= {arg.arg: (arg.annotation, default) for arg, default in zip(positional, defaults, strict=True)}
        given |= {a.arg: (a.annotation, d) for a, d in zip(init.args.kwonlyargs, init.args.kw_defaults, strict=True)}
    elif made.decorator_list:  # a dataclass, whose arguments are its fields
        fields = [node for node in made.body if isinstance(node, ast.AnnAssign)]
        given |= {ast.unparse(field.target): (field.annotation, field.value) for field in fields}
    says = {said.arg_name: said.description or "" for said in docstring_parser.parse(doc).params}
    ours = {
        k: Option(_type(module, kind), _literal(default), " ".join(says.get(k, "").split()))
        for k, (kind, default) in given.items()
    }
    if init and not init.args.kwarg:
        return ours
    inherited: dict[str, Option] = {}
    for base in [*made.bases, *_given_the_rest(init)]:
        if isinstance(base, ast.Name) and _home(module, base.id).startswith("probe."):
            inherited |= _arguments(module, base.id)
    return ours | {k: v for k, v in inherited.items() if k not in ours}


def _given_the_rest(init: ast.FunctionDef | None) -> list[ast.expr]:
    """What a constructor makes of the arguments that it does not name."""
    if init is None or init.args.kwarg is None:
        return []
    calls = [node for node in ast.walk(init) if isinstance(node, ast.Call)]
    rest = init.args.kwarg.arg
    return [c.func for c in calls if any(k.arg is None and ast.unparse(k.value) == rest for k in c.keywords)]


@cache
def _tree(module: str) -> ast.Module:
    top, *rest = module.split(".")
    spec = find_spec(top)
    assert spec is not None and spec.submodule_search_locations
    path = Path(spec.submodule_search_locations[0], *rest)
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return ast.parse(file.read_text(encoding="utf-8"))


def _home(module: str, name: str) -> str:
    """The module in which a name that a module uses is defined."""
    for node in ast.walk(_tree(module)) if module.startswith(("probe.", "lightning.")) else ():
        if isinstance(node, ast.ImportFrom) and name in {alias.name for alias in node.names}:
            assert node.module
            return _home(node.module, name)
    return module


def _type(module: str, annotation: ast.expr | None) -> Any:
    """The type that an annotation means; names are looked up in the source, but for the light room of options' types."""
    if annotation is None or not module.startswith("probe."):
        return None
    names: dict[str, Any] = {}
    for node in ast.walk(annotation):
        if isinstance(node, ast.Name) and not hasattr(builtins, node.id):
            home = _home(module, node.id)
            if home.startswith("probe.") and home != "probe.options.types":
                names[node.id] = _alias(home, node.id)
            else:
                names[node.id] = getattr(importlib.import_module(home), node.id)

    def holder() -> None: ...

    holder.__annotations__ = {"it": ast.unparse(annotation)}
    return get_type_hints(holder, names)["it"]


def _alias(module: str, name: str) -> Any:
    for node in _tree(module).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name:
            return _type(module, node.value)
        if isinstance(node, ast.ClassDef) and node.name == name:  # a section within a section, which is light
            return getattr(importlib.import_module(module), name)
    return None


def _literal(default: ast.expr | None) -> Any:
    try:
        return None if default is None else ast.literal_eval(default)
    except ValueError:
        return None  # a factory's
