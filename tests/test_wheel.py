"""What a plain install holds, and that it is enough to work from any folder: built here as `pip wheel` builds it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import probe
from probe.cli import main

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds the package as site-packages would."""
    folder = tmp_path_factory.mktemp("installed")
    build = [
        sys.executable,
        "-c",
        "from setuptools import setup; setup()",
        "-q",
        "build_py",
        "--build-lib",
        str(folder),
    ]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    return folder


def run(installed: Path, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    env = os.environ | {"PYTHONPATH": str(installed), "PROBE_CACHE": str(folder / "cache")}
    return subprocess.run([sys.executable, *words], cwd=folder, env=env, capture_output=True, text=True)


def test_the_package_holds_its_code_configs_data_and_models_and_nothing_else(installed: Path) -> None:
    held = {str(path.relative_to(installed)) for path in installed.rglob("*") if path.is_file()}
    code = {f"probe/{path.relative_to(ROOT / 'probe')}" for path in (ROOT / "probe").rglob("*.py")}
    configs = {f"probe/shipped/configs/{path.name}" for path in (ROOT / "configs").glob("*.yaml")}
    sets = {"pairs.jsonl", "stories_a.jsonl", "stories_b.jsonl", "README.md"}
    data = {f"probe/shipped/data/storyteller/{name}" for name in sets}
    data |= {f"probe/shipped/data/creativity/{path.name}" for path in (ROOT / "data/creativity").iterdir()}
    data |= {f"probe/shipped/data/tasks/{path.name}" for path in (ROOT / "data/tasks").iterdir()}
    for lm in ("lm0", "lm1"):
        files = [path.name for path in (ROOT / "data/storyteller" / lm).iterdir() if path.is_file()]
        assert {"model.safetensors", "config.json", "tokenizer.json"} <= set(files)
        data |= {f"probe/shipped/data/storyteller/{lm}/{name}" for name in files}
    others = {
        "storyteller/storyteller.yaml",
        "py.typed",
        *(f"verbs/serve/page.{kind}" for kind in ("html", "css", "js")),
    }
    assert held == code | configs | data | {f"probe/{name}" for name in others}
    assert sum((installed / path).stat().st_size for path in held) < 20e6


def test_a_plain_install_finds_configs_data_and_models_from_any_folder(installed: Path, tmp_path: Path) -> None:
    code = (
        "import probe; from probe.cli.preflight import *; from probe.cli.spelling import check_spelling\n"
        "for name in ('quickstart', 'configs/prompts.yaml', 'creativity'):\n"
        "    argv = find_configs(['fit', '--config', name]); check_spelling(argv); check(argv)\n"
        "print(probe.__file__, argv[2], locate('data/storyteller/lm1'), sep='\\n')"
    )
    done = run(installed, tmp_path, "-c", code)
    assert done.stdout.splitlines() == [
        f"{installed}/probe/__init__.py",
        f"{installed}/probe/shipped/configs/creativity.yaml",
        f"{installed}/probe/shipped/data/storyteller/lm1",
    ], done.stderr
    audit = run(installed, tmp_path, "-m", "probe", "audit", "--data.pairs", "data/creativity/pairs.jsonl")
    assert "what the audit found" in audit.stdout, audit.stderr


def test_a_file_of_ones_own_comes_before_the_one_that_ships(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs/quickstart.yaml").write_text("modle: {}\n")
    done = run(installed, tmp_path, "-m", "probe", "fit", "--config", "quickstart")
    assert done.stderr.startswith("error: --config configs/quickstart.yaml: modle: expected a section")
    done = run(installed, tmp_path, "-m", "probe", "fit", "--config", "quickstart", "--config=none.yaml")
    assert f"one of {installed}/probe/shipped/configs: aut, compare, creativity" in done.stderr
    done = run(installed, tmp_path, "-m", "probe", "audit", "--data.pairs=data/creativity/none.jsonl")
    assert f"data/creativity/none.jsonl: no such file, here or in {installed}/probe/shipped" in done.stderr


@pytest.mark.faults
def test_a_plain_install_does_the_job_of_the_positive_control_in_an_empty_folder(
    installed: Path, tmp_path: Path
) -> None:
    done = run(installed, tmp_path, "-m", "probe", "fit", "--config", "organism", "--steering.n_prompts=0")
    assert done.returncode == 0, done.stderr
    assert "Verdict: layer" in done.stdout
    assert {path.name for path in tmp_path.iterdir()} == {"lightning_logs", "cache"}
    assert list(tmp_path.glob("cache/activations/*.safetensors"))


def test_probe_and_python_m_probe_are_one_and_know_their_version(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    module, _, name = project["scripts"]["probe"].partition(":")
    assert getattr(__import__(module, fromlist=[name]), name) is main
    monkeypatch.setattr(sys, "argv", ["probe", "--version"])
    assert main() == 0
    assert capsys.readouterr().out == f"probe {probe.__version__}\n"
