"""The house: rooms import one way, hooks live in one file, and light rooms load nothing heavy."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "probe").rglob("*.py"))

SHARED_BY_SCORERS = ("base", "frozen", "directional", "measure", "lora")
SCORERS = sorted({f.stem for f in FILES if f.parent.name == "scorers"} - {*SHARED_BY_SCORERS, "__init__"})
"""One file each; that none leans on another is tested below."""

ROOMS = (
    "errors", "files", "rows", "spec", "textstats", "audit", "chat", "hooks", "directions", "geometry", "metrics", "bootstrap",
    "people", "pairwise", "ballot", "storyteller", "data", "evaluation", "sampling", "tokens", "lm", "activations", "adapters",
    "preflight", "plugins",
    "scorers.base", "scorers.frozen", "scorers.directional", "scorers.measure", "scorers.lora",
    *(f"scorers.{name}" for name in SCORERS), "scorers", "judging", "steering", "samples", "effects", "steering_callback",
    "figures", "reporting", "crossfit", "tournament", "sheets", "standings", "comparison", "comparison_figures",
    "comparison_table", "comparison_report", "held_out", "sweep", "sweep_trial", "sweep_figures", "sweep_report", "stories",
    "stories_figures", "stories_report", "verbs",
    "commands.audit", "commands.compare", "commands.generate", "commands.pairs", "commands.stories", "commands.sweep",
    "commands.votes", "commands", "cli", "__main__",
)  # fmt: skip
"""A room imports only rooms above it, that is, to its left. A new room takes its place here first."""

NARROW = {"preflight": {"errors", "rows"}}
"""Rooms that may import even less."""


def room_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT / "probe").with_suffix("").parts).removesuffix("__init__").rstrip(".")


def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def imported(tree: ast.Module) -> Iterator[str]:
    """Full names of all imported modules and of what is taken from them, also inside functions and TYPE_CHECKING."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def rooms_imported(tree: ast.Module) -> set[str]:
    names = [name.removeprefix("probe.") for name in imported(tree) if name.split(".")[0] == "probe"]
    return {max((room for room in ROOMS if f"{name}.".startswith(f"{room}.")), key=len, default=name) for name in names}


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_a_room_imports_only_rooms_above_it(path: Path) -> None:
    room, found = room_of(path), rooms_imported(tree_of(path))
    if not room:  # probe/__init__.py
        assert not found
        return
    assert room in ROOMS, f"{room} has no place in the house yet"
    above = NARROW.get(room, set(ROOMS[: ROOMS.index(room)]))
    assert found <= above, f"{room} imports {sorted(found - above)}"


@pytest.mark.parametrize("name", SCORERS)
def test_a_scorer_leans_on_no_other_scorer(name: str) -> None:
    found = rooms_imported(tree_of(ROOT / f"probe/scorers/{name}.py"))
    assert not found & {f"scorers.{other}" for other in SCORERS}


def test_the_import_check_sees_every_way_to_import() -> None:
    source = (
        "import probe.lm\nfrom probe import metrics\nfrom probe.scorers.base import Scorer\n"
        "from probe.scorers import X\ndef f():\n    from probe.cli import main\nimport os, torch\n"
    )
    assert rooms_imported(ast.parse(source)) == {"lm", "metrics", "scorers.base", "scorers", "cli"}


def test_every_room_of_the_list_stands_and_none_is_a_lumber_room() -> None:
    rooms = {room_of(path) for path in FILES} - {""}
    assert rooms == set(ROOMS)
    assert not {room.split(".")[-1] for room in rooms} & {"utils", "util", "helpers", "common", "misc"}


def test_hooks_are_registered_in_one_file() -> None:
    users = [name_of(path) for path in FILES if "register_forward_" in path.read_text(encoding="utf-8")]
    assert users == ["probe/hooks.py"]


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_nothing_is_unpickled_no_remote_code_is_trusted_and_no_error_is_swallowed(path: Path) -> None:
    tree = tree_of(path)
    assert not {name.split(".")[0] for name in imported(tree)} & {"pickle", "cPickle", "dill", "cloudpickle", "joblib"}
    for node in ast.walk(tree):
        if isinstance(node, ast.keyword) and node.arg in ("trust_remote_code", "weights_only"):
            secure = node.arg == "weights_only"
            assert not isinstance(node.value, ast.Constant) or node.value.value is secure, f"line {node.value.lineno}"
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load":
            assert "weights_only" in {keyword.arg for keyword in node.keywords}, f"line {node.lineno}"
        assert not (isinstance(node, ast.ExceptHandler) and node.type is None), f"bare except, line {node.lineno}"


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_no_room_is_too_large_to_read_in_one_sitting(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 300


@pytest.mark.parametrize(
    "module",
    ["preflight", "cli", "storyteller", "commands.audit", "commands.compare", "commands.generate", "commands.pairs"],
)
def test_a_light_room_loads_nothing_heavy(module: str) -> None:
    code = f"import sys, probe.{module}; print(*{{name.split('.')[0] for name in sys.modules}})"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = set(run.stdout.split())
    assert "probe" in loaded
    assert not loaded & {"torch", "lightning", "transformers", "torchmetrics", "sklearn", "matplotlib"}


def test_no_tracked_file_names_a_place_outside_the_repository() -> None:
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True
    )
    if listing.returncode:
        pytest.skip("not a git checkout")
    # Split in two, so that this file does not hold them itself.
    parts = [
        ("../sha", "red"),
        ("/wo", "rk/"),
        ("files.python", "hosted.org"),
        ("pypi.org/", "simple"),
        ("artifac", "tory"),
    ]
    outside = [(a + b).encode() for a, b in parts]
    paths = [path for path in (ROOT / name.decode() for name in listing.stdout.split(b"\0") if name) if path.is_file()]
    assert ROOT / "pyproject.toml" in paths
    found = [(name_of(path), text) for path in paths for text in outside if text in path.read_bytes()]
    assert not found
