"""The README is true: its Python runs, its files exist, its commands parse."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_python_example_runs_and_steers(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    exec(compile(code, "README.md", "exec"), {})
    from probe.storyteller import Oracle

    assert Oracle().read(capsys.readouterr().out).inventive_share > 0.5


def test_every_file_and_config_it_names_is_there() -> None:
    named = re.findall(r"(?:configs|data/storyteller)/[\w./]+", README)
    assert named
    assert not [name for name in named if not (ROOT / name.rstrip(".")).exists()]


def test_it_has_the_two_commands_and_no_machine_path() -> None:
    commands = [line for line in README.splitlines() if line.startswith("python3 -m venv .venv && ")]
    assert len(commands) == 2
    assert "python -m probe fit --config configs/quickstart.yaml" in commands[0]
    assert commands[1].endswith("-m pytest")
    assert not re.search(r"(?<![\w.])/(work|root|home|tmp)/", README)


def test_every_room_in_its_table_is_a_file() -> None:
    rooms = re.findall(r"`(\w+\.py|scorers/)`", README)
    assert {"hooks.py", "lm.py", "activations.py", "scorers/"} <= set(rooms)
    assert not [room for room in rooms if not (ROOT / "probe" / room).exists()]
