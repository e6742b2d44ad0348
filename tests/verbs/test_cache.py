"""cache shows what is there and removes what it is told to, and nothing else."""

import json
from pathlib import Path

import pytest

from probe.cli import main
from probe.verbs.cache import HOLDS


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("PROBE_CACHE", str(folder))
    for name, size in {
        "models/a/weights": 3_000_000,
        "activations/x": 100,
        "activations/steered/y": 50,
        "fits/z": 7,
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"0" * size)
    (folder / "replies.db").write_bytes(b"0" * 9)
    (folder / "mine.txt").write_text("not of this project")
    return folder


def shown(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, tuple[int, int]]:
    assert main(["cache", "--json", *words]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    return {line["name"]: (line["files"], line["bytes"]) for line in lines}


def test_sizes_are_those_of_the_files(kept: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert shown(capsys) == {
        "models": (1, 3_000_000), "activations": (2, 150), "fits": (1, 7), "replies.db": (1, 9)
    }  # fmt: skip
    assert main(["cache"]) == 0
    said = capsys.readouterr().out
    assert str(kept) in said.replace("\n", "") and all(name in said for name in HOLDS)


def test_one_thing_is_forgotten_or_all_and_no_file_of_anybody_else(
    kept: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    after = shown(capsys, "--clear", "activations")
    assert after["activations"] == (0, 0) and after["models"][0] == after["fits"][0] == after["replies.db"][0] == 1
    assert set(shown(capsys, "--clear", "all").values()) == {(0, 0)}
    assert (kept / "mine.txt").read_text() == "not of this project"


def test_a_slip_removes_nothing(kept: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cache", "--clear", "activation"]) == 2
    assert "did you mean activations?" in capsys.readouterr().err
    assert main(["cache", "--clear", "../cache"]) == 2
    assert len([path for path in kept.rglob("*") if path.is_file()]) == 6


def test_where_nothing_was_ever_remembered_it_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PROBE_CACHE", str(tmp_path / "nowhere"))
    assert set(shown(capsys).values()) == {(0, 0)}
