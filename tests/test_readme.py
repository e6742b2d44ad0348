"""The README is true: its Python runs, its files exist, its commands parse."""

import re
from pathlib import Path

import pytest

from probe.cli import main

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PYTHON = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_the_python_example_runs_and_steers(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs/python.md").read_text(encoding="utf-8"), re.DOTALL)
    exec(compile(code, "docs/python.md", "exec"), {})
    from probe.storyteller.storyteller import Oracle

    assert Oracle().read(capsys.readouterr().out).inventive_share > 0.5


def test_the_scorer_of_ones_own_is_fitted_and_compared_when_the_command_line_admits_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_lm_folder: Path, small_sets: dict[str, str], capsys
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "my_scorers.py").write_text(*PYTHON)
    data = "".join(f"    {name}: {path}\n" for name, path in small_sets.items() if name != "test_preferences")
    (tmp_path / "mine.yaml").write_text(
        f"lm: {{model: {tiny_lm_folder}}}\nmodel: my_scorers.NearestMean\nsteering: {{n_prompts: 0}}\n"
        f"data:\n  class_path: ContrastData\n  init_args:\n{data}"
        "scorers: {nearest mean: {scorer: NearestMean}, mean difference: {scorer: MeanDifference}}\n"
    )
    (tmp_path / "fit.yaml").write_text((tmp_path / "mine.yaml").read_text().split("scorers:")[0])
    fit = ["fit", "--config", "fit.yaml", "--trainer.enable_progress_bar=false"]
    assert main(fit) == 2  # not admitted
    capsys.readouterr()
    assert main([*fit, "--plugin", "my_scorers"]) == 0
    assert "NearestMean, span response, on test" in " ".join(capsys.readouterr().out.split())
    compare = ["compare", "--plugin=my_scorers", "--config", "mine.yaml", "--folds", "2", "--resamples", "50"]
    assert main([*compare, "--lms", f"[{{model: {tiny_lm_folder}}}]"]) == 0
    assert "| nearest mean layer" in Path("lightning_logs/compare/version_0/compare.md").read_text()


def test_every_file_and_config_it_names_is_there() -> None:
    named = re.findall(r"(?:configs|data/storyteller)/[\w./]+", README)
    assert named
    assert not [name for name in named if not (ROOT / name.rstrip(".")).exists()]


def test_it_has_the_two_commands_and_no_machine_path() -> None:
    commands = [line for line in README.splitlines() if line.startswith("python3 -m venv .venv && ")]
    assert len(commands) == 2
    assert "python -m probe fit --config quickstart" in commands[0]
    assert commands[1].endswith("-m pytest")
    assert not re.search(r"(?<![\w.])/(work|root|home|tmp)/", README)


def test_it_is_short_enough_for_a_newcomer() -> None:
    assert len(README.splitlines()) <= 150


def test_its_table_of_the_house_names_every_folder() -> None:
    house = README[README.index("## The house") :]
    folders = {path.name for path in (ROOT / "probe").iterdir() if (path / "__init__.py").is_file()}
    assert set(re.findall(r"^\| `(\w+)/` \|", house, re.MULTILINE)) == folders
