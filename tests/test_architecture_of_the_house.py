"""The house: rooms import one way, hooks live in one file, and light rooms load nothing heavy."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "probe").rglob("*.py"))

SHARED_BY_SCORERS = (
    "abilities", "base", "frozen", "directional", "linear_head", "measure", "lora", "judging", "restoring", "saved", "settings"
)  # fmt: skip
SCORERS = sorted({f.stem for f in FILES if f.parent.name == "scorers"} - {*SHARED_BY_SCORERS, "__init__"})
"""One file each; that none leans on another is tested below."""

FLOORS = (
    "version", "errors", "shown", "options", "files", "logs", "progress", "storyteller", "data", "lm", "activations",
    "directions", "metrics", "show", "scorers", "steering", "runs", "verbs", "cli", "__main__",
)  # fmt: skip
"""A folder (or a file beside them) imports only what stands above it, that is, to its left."""

NARROW = {"cli.preflight": {"errors", "files", "data.contrast", "data.rows", "lm.sources", "options.yaml_text"}}
"""Rooms that may import even less."""


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT / "probe").with_suffix("").parts).removesuffix("__init__").rstrip(".")


def floor_of(module: str) -> str:
    return module.split(".")[0]


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


def modules_imported(tree: ast.Module) -> set[str]:
    """Of this package, without `probe.`; what is taken from a module is cut off again."""
    return {re.sub(r"\.[^.]+$", "", name) if name not in MODULES else name for name in ours(tree)} - {""}


def ours(tree: ast.Module) -> set[str]:
    return {name.removeprefix("probe.") for name in imported(tree) if name.split(".")[0] == "probe"}


def ours_at_once(node: ast.stmt) -> set[str]:
    """What a statement of a module imports of ours when the module is imported."""
    return ours(ast.Module([node], [])) if isinstance(node, ast.Import | ast.ImportFrom) else set()


MODULES = {module_of(path) for path in FILES}


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_a_folder_imports_only_folders_above_it(path: Path) -> None:
    module, found = module_of(path), modules_imported(tree_of(path))
    if not module:  # probe/__init__.py imports for type checkers alone
        assert found <= MODULES
        assert not any(floor_of(name) for node in tree_of(path).body for name in ours_at_once(node))
        return
    here = floor_of(module)
    assert here in FLOORS, f"{here} has no place in the house yet"
    above = FLOORS[: FLOORS.index(here) + 1]
    assert {floor_of(name) for name in found} <= set(above), f"{module} imports {sorted(found)}"
    if module in NARROW:
        assert found <= NARROW[module]


@pytest.mark.parametrize("path", [f for f in FILES if "verbs" in f.parts], ids=name_of)
def test_no_verb_imports_another(path: Path) -> None:
    verb = module_of(path).split(".")[1:2]
    assert all(name.split(".")[1:2] == verb for name in modules_imported(tree_of(path)) if floor_of(name) == "verbs")


def test_no_two_files_of_a_folder_import_each_other() -> None:
    graph = {module_of(path): modules_imported(tree_of(path)) for path in FILES if path.name != "__init__.py"}
    tuple(TopologicalSorter(graph).static_order())  # raises CycleError


@pytest.mark.parametrize("name", SCORERS)
def test_a_scorer_leans_on_no_other_scorer(name: str) -> None:
    found = modules_imported(tree_of(ROOT / f"probe/scorers/{name}.py"))
    assert not found & {f"scorers.{other}" for other in SCORERS}


def test_what_the_package_exports_is_what_type_checkers_see_of_it() -> None:
    import probe

    shown = [node for node in ast.walk(tree_of(ROOT / "probe/__init__.py")) if isinstance(node, ast.ImportFrom)]
    found = {alias.asname: node.module for node in shown for alias in node.names if alias.asname}
    assert found == {name: f"probe.{room}" for name, room in probe._ROOM_OF.items() if name != "__version__"}
    assert all(getattr(probe, name) for name in probe.__all__)


def test_the_import_check_sees_every_way_to_import() -> None:
    source = (
        "import probe.lm.hooks\nfrom probe.metrics.ranks import ranks\nfrom probe.scorers.base import Scorer\n"
        "from probe.scorers import X\ndef f():\n    from probe.cli import main\nimport os, torch\n"
    )
    assert modules_imported(ast.parse(source)) == {"lm.hooks", "metrics.ranks", "scorers.base", "scorers", "cli"}


def test_every_floor_stands_and_none_is_a_lumber_room() -> None:
    assert {floor_of(module) for module in MODULES} - {""} == set(FLOORS)
    assert not {name for module in MODULES for name in module.split(".")} & {
        "utils",
        "util",
        "helpers",
        "common",
        "misc",
    }


def test_hooks_are_registered_in_one_file() -> None:
    def registers(path: Path) -> bool:  # the code itself: a model card may show others how
        nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        return any(isinstance(node, ast.Attribute) and node.attr.startswith("register_forward_") for node in nodes)

    users = [name_of(path) for path in FILES if registers(path)]
    assert users == ["probe/lm/hooks.py"]


def test_only_a_witness_knows_what_its_measures_are_called() -> None:
    from probe.steering.witnesses.storyteller import Storyteller

    measures = {*Storyteller()([]), "surface_distance", "preferred_share"}
    for path in (path for path in FILES if not {"witnesses", "storyteller"} & set(path.parts)):
        assert not [m for m in measures if re.search(rf"\b{m}\b", path.read_text(encoding="utf-8"))], name_of(path)


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
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 275


@pytest.mark.parametrize(
    "module",
    [
        "cli.preflight",
        "cli",
        "storyteller.storyteller",
        *(f"verbs.{v}" for v in ("audit", "compare", "generate", "pairs", "runs", "score", "serve", "votes")),
        "runs.summary",
    ],
)
def test_a_light_room_loads_nothing_heavy(module: str) -> None:
    code = f"import sys, probe.{module}; print(*{{name.split('.')[0] for name in sys.modules}})"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = set(run.stdout.split())
    assert "probe" in loaded
    assert not loaded & {"torch", "lightning", "transformers", "torchmetrics", "sklearn", "matplotlib", "fastapi"}


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
