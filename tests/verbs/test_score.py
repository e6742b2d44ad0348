"""score: every text of a file, folder or pipe, once, in order, with the run's own score; a command that was cut off goes on."""

import csv
import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from probe.cli import main
from probe.data.reading import Passage
from probe.runs.cosines import token_cosines
from probe.runs.run import Run, load
from probe.shown.terminal import Terminal
from probe.verbs.score import command
from probe.verbs.score.shading import shade

TEXTS = [f'The lamp sang {i} times, as "lamps" do,' + " and again" * (i % 5) + "." for i in range(11)]


@pytest.fixture
def here(fitted: tuple[Path, dict[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder beside the run that was fitted, with texts in every form; chunks of four."""
    monkeypatch.chdir(tmp_path)
    Path("lightning_logs").symlink_to(fitted[0] / "lightning_logs")
    monkeypatch.setattr(command, "CHUNK", 4)
    rows = [{"id": i, "text": text, "prompt": "Write."} for i, text in enumerate(TEXTS)]
    Path("texts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with Path("texts.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["id", "text", "prompt"])
        writer.writeheader()
        writer.writerows(rows)
    Path("texts.txt").write_text("\n\n".join(TEXTS) + "\n")
    Path("folder").mkdir()
    for i, text in enumerate(TEXTS):
        Path(f"folder/{i:02}.md").write_text(text)
    return tmp_path


def score(*words: str) -> int:
    return main(["score", *words])


def lines(path: str = "scores.jsonl") -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize(
    ("words", "prompt"),
    [
        (("texts.jsonl",), "Write."),
        (("texts.csv",), "Write."),
        (("texts.txt",), "Write a story."),
        (("folder", "--prompt=Tell."), "Tell."),
        (("-",), "Write a story."),
    ],
)
def test_every_form_of_texts_is_scored_in_order_with_the_runs_own_score(
    here: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], prompt: str
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n".join(TEXTS)))
    assert score(*words, "--output=scores.jsonl") == 0
    found, run = lines(), load()
    assert [row["text"] for row in found] == TEXTS
    for i in range(0, len(TEXTS), 4):
        expected = run.score([Passage(prompt, text) for text in TEXTS[i : i + 4]])
        assert [row["score"] for row in found[i : i + 4]] == expected
    assert [row["percentile"] for row in found] == [run.percentile(row["score"]) for row in found]


def test_a_pipe_may_hold_json_lines(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(Path("texts.jsonl").read_text()))
    assert score("-", "--output=piped.jsonl") == 0
    assert score("texts.jsonl", "--output=scores.jsonl") == 0
    assert lines("piped.jsonl") == lines()


def test_csv_keeps_every_column_and_gives_the_same_scores(here: Path) -> None:
    assert score("texts.csv", "--output=scores.csv") == 0
    assert score("texts.jsonl", "--output=scores.jsonl") == 0
    with Path("scores.csv").open(newline="") as file:
        found = list(csv.DictReader(file))
    assert list(found[0]) == ["id", "text", "prompt", "score", "percentile"]
    assert [(int(r["id"]), r["text"], float(r["score"]), float(r["percentile"])) for r in found] == [
        (r["id"], r["text"], r["score"], r["percentile"]) for r in lines()
    ]


@pytest.mark.parametrize("name", ["scores.jsonl", "scores.csv"])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.3, 0.5, 0.77, 0.999, 1.0])
def test_an_output_that_was_cut_off_anywhere_is_gone_on_with_to_the_same_bytes(
    here: Path, monkeypatch: pytest.MonkeyPatch, name: str, share: float
) -> None:
    source = "texts.csv" if name.endswith("csv") else "texts.jsonl"
    assert score(source, f"--output={name}") == 0
    whole = Path(name).read_bytes()
    Path(name).write_bytes(whole[: int(share * len(whole))])
    read: list[int] = []
    monkeypatch.setattr(Run, "score", lambda run, texts, of=Run.score: (read.append(len(texts)), of(run, texts))[1])
    assert score(source, f"--output={name}") == 0
    assert Path(name).read_bytes() == whole
    if share == 1.0:
        assert read == [3]  # the last chunk alone, to see that the run is the same
    elif share == 0.77:
        assert read == [4, 3]


def test_a_text_that_would_be_a_formula_or_has_lines_is_recognised_when_its_csv_is_gone_on_with(here: Path) -> None:
    odd = ["=1+1 they said", 'two\nlines, "quoted"', "'=so", "-5 degrees", "five", "six"]
    Path("odd.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in odd))
    assert score("odd.jsonl", "--output=odd.csv") == 0
    whole = Path("odd.csv").read_bytes()
    assert b"'=1+1" in whole
    for cut in range(len(whole) - 40, len(whole), 7):
        Path("odd.csv").write_bytes(whole[:cut])
        assert score("odd.jsonl", "--output=odd.csv") == 0
        assert Path("odd.csv").read_bytes() == whole


@pytest.mark.parametrize(
    ("there", "says"),
    [
        ("my notes\n", "found something else"),
        ('{"text": "another", "score": 1.0, "percentile": 5.0}\n', "found scores of other texts"),
        ("of another run", "found scores of another run"),
        ("too long", "found more of them than texts"),
    ],
)
def test_a_file_that_is_not_the_beginning_of_these_scores_is_left_as_it_was(
    here: Path, capsys: pytest.CaptureFixture[str], there: str, says: str
) -> None:
    assert score("texts.jsonl", "--output=scores.jsonl") == 0
    known = Path("scores.jsonl").read_text()
    if there == "of another run":
        shifted = [row | {"score": row["score"] + 0.01} for row in lines()[:4]]
        there = "".join(json.dumps(row) + "\n" for row in shifted)
    there = known + known.splitlines(keepends=True)[-1] if there == "too long" else there
    Path("scores.jsonl").write_text(there)
    capsys.readouterr()
    assert score("texts.jsonl", "--output=scores.jsonl") == 2
    assert says in capsys.readouterr().err
    assert Path("scores.jsonl").read_text() == there


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ("{}", "texts.jsonl:12: expected `text`, `response` or `prompt`, found []"),
        ("[1]", "texts.jsonl:12: expected an object with `text`"),
        ("no json", "texts.jsonl:12: expected one JSON object a line"),
        ('{"text": 5}', "texts.jsonl:12: expected `text` to be a non-empty text, found 5"),
        ('{"text": "a", "score": 5}', "texts.jsonl:12: found the field `score`, which is to be written"),
        ('{"text": "a", "note": "\\ud800"}', "texts.jsonl:12: the row holds half of a surrogate pair"),
    ],
)
def test_a_bad_row_is_named_before_the_model_is_loaded(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, row: str, says: str
) -> None:
    with Path("texts.jsonl").open("a") as file:
        file.write(f"{row}\n")
    monkeypatch.setattr("probe.lm.frozen.FrozenLM.load", lambda spec: pytest.fail("the model was loaded"))
    assert score("texts.jsonl", "--output=scores.jsonl") == 2
    assert says in capsys.readouterr().err
    assert not Path("scores.jsonl").exists()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ((), "expected texts, found none"),
        (("none.txt",), "none.txt: expected a file or a folder of texts"),
        (("texts.pdf",), "expected .jsonl, .csv or .txt"),
        (("texts.txt", "--output=scores.xlsx"), "ends in .jsonl or .csv"),
        (("texts.txt", "--output=nowhere/scores.csv"), "expected its folder to be there"),
        (("texts.txt", "--run=unheard_of"), "--run unheard_of: expected a run"),
        (("texts.txt", "--tokens", "--output=scores.csv"), "expected no --output beside it"),
    ],
)
def test_what_cannot_be_is_one_sentence(
    here: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], says: str
) -> None:
    Path("texts.pdf").write_bytes(b"%PDF")
    assert score(*words) == 2
    assert says in capsys.readouterr().err


def test_the_terminal_shows_score_percentile_and_the_beginning_of_each_text(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert score("texts.txt") == 0
    out, run = capsys.readouterr().out, load()
    first = run.score(TEXTS[:4])
    for text, value in zip(TEXTS, first, strict=False):
        assert f"{value:10.4f}  {run.percentile(value):8.0f} %  {text[:40]}" in out


def test_texts_are_not_kept(here: Path) -> None:
    given = command.Texts([Path("texts.jsonl")], "Write.")
    chunks = command._chunks(given)
    assert [len(chunk) for chunk in chunks] == [4, 4, 3]
    assert next(command._chunks(given))[0].record["id"] == 0  # each pass reads anew


def test_the_mean_of_the_tokens_cosines_is_the_score_and_their_pieces_are_the_text(here: Path) -> None:
    run = load()
    text = "Fürchte dich nicht: the lamp sang."
    pieces = token_cosines(run.lm, run.passage(text), run.direction)
    assert "".join(piece for piece, _ in pieces) == text
    assert sum(cosine for _, cosine in pieces) / len(pieces) == pytest.approx(run.score([text])[0], abs=1e-5)


def test_a_token_is_the_more_orange_the_higher_it_is_and_the_legend_gives_the_range() -> None:
    console = Terminal(file=io.StringIO(), force_terminal=True, color_system="truecolor", width=120)
    shade(console, [("low ", 0.0), ("middle ", 0.25), ("high", 0.375)], 0.25)
    shown = console.file.getvalue()
    for letters in ("48;2;0;114;178mlow", "48;2;255;255;255mmiddle", "48;2;234;174;128mhigh"):
        assert letters in shown
    assert "+0.00 ... +0.25 ... +0.50" in shown


def test_tokens_are_shown_with_their_cosines_where_there_are_no_colours(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert score("texts.txt", "--tokens") == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "cosine of each token with the direction" in out
    run = load()
    (letter, cosine), *_ = token_cosines(run.lm, run.passage(TEXTS[0]), run.direction)
    assert f"{letter}({cosine:+.2f})" in out
    assert torch.isfinite(torch.tensor(cosine))
