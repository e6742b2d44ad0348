"""runs: what found something is listed, the newest first, for people and for programs; what did not is counted."""

import json
import os
from pathlib import Path

import pytest

from probe.cli import main
from probe.cli.stopped import say_how_to_go_on


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two fits, a trial, and four folders without a result, of which one holds a damaged one."""
    monkeypatch.chdir(tmp_path)
    made = {"lm": "models/tiny", "method": "LinearProbe", "span": "response", "pooling": "mean", "concept": "formal"}
    number = {"metric": "spearman", "value": 0.5, "lower": 0.25, "upper": 0.75}
    results = {"validation": [], "test": [number | {"column": "layer_1", "value": 0.1}, number | {"column": "layer_2"}]}
    fit = {"provenance": made, "chosen": "layer_2", "results": results}
    trial = {"held_out_tasks": 12, "held_out_accuracy": {"4": 0.75}}
    card = {"chosen": 4, "provenance": {"lm": "m", "method": "mean difference", "span": "reply", "concept": "calm"}}
    for i, (folder, files) in enumerate(
        {
            "probe/version_0": {"metrics.json": fit},
            "try/version_0": {"try.json": trial, "direction/direction.json": card},
            "probe/version_1": {"metrics.json": fit | {"results": {"validation": [number | {"column": "layer_2"}]}}},
            "probe/version_2": {"config.yaml": {}},
            "probe/version_3": {"metrics.json": "damaged"},
            "stories/version_0": {"stories.json": {}},
            "compare/version_0": {"compare.json": {}},
        }.items()
    ):
        for name, value in files.items():
            path = Path("lightning_logs", folder, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(value))
            os.utime(path, (1_000_000 + i, 1_000_000 + i))
    return tmp_path


def test_programs_get_a_line_for_each_run_the_newest_first(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["runs", "--json"]) == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["folder"].removeprefix("lightning_logs/") for row in found] == [
        "probe/version_1",
        "try/version_0",
        "probe/version_0",
    ]
    assert [(row["metric"], row["value"], row["lower"]) for row in found] == [
        ("Spearman, validation", 0.5, 0.25),
        ("of 12 tasks told apart", 0.75, None),
        ("Spearman, test", 0.5, 0.25),
    ]
    assert {row["concept"] for row in found} == {"formal", "calm"}


def test_people_get_a_table_of_which_nothing_is_lost_and_what_to_do_next(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    assert main(["runs"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    for words in ("probe/version_0", "tiny", "LinearProbe (formal)", "response, mean", "0.50 [0.25, 0.75]"):
        assert words in out
    assert "Not listed: 2 without a result" in out
    assert "Next: probe score FILE --run probe/version_1" in out
    assert "version_2" not in out
    assert "stories" not in out


def test_without_a_folder_of_runs_it_says_how_to_have_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["runs"]) == 2
    assert "expected a folder of runs, found none; `fit` or `try` makes one" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "command"),
    [
        (["fit", "--config", "my config.yaml"], "probe fit --config 'my config.yaml' --resume"),
        (["fit", "--resume", "--config=x.yaml"], "probe fit --resume --config=x.yaml\n"),
        (["score", "texts.jsonl", "--output=s.csv"], "probe score texts.jsonl --output=s.csv\n"),
        (["compare", "--config", "c.yaml"], "probe compare --config c.yaml\n"),
        (["score", "texts.jsonl"], ""),
        (["generate", "Sing."], ""),
    ],
)
def test_a_verb_that_was_stopped_names_the_command_that_goes_on(
    capsys: pytest.CaptureFixture[str], argv: list[str], command: str
) -> None:
    say_how_to_go_on(argv)
    err = capsys.readouterr().err
    assert command in err
    assert bool(command) == bool(err)


@pytest.mark.parametrize("stop", [KeyboardInterrupt, "SIGTERM"])
def test_a_fit_that_is_interrupted_or_terminated_says_so_and_ends_as_a_signal_does(
    fitted: tuple[Path, dict[str, str]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    stop: type[BaseException] | str,
) -> None:
    import signal

    from probe.scorers.mean_difference import MeanDifference

    def stopped(*_: object) -> None:
        if stop == "SIGTERM":
            signal.raise_signal(signal.SIGTERM)
        else:
            raise KeyboardInterrupt

    monkeypatch.chdir(fitted[0])
    monkeypatch.setattr(MeanDifference, "finish_epoch", stopped)
    code = main(["fit", "--config", "fit.yaml", "--trainer.enable_progress_bar=false"])
    assert code == 128 + (signal.SIGTERM if stop == "SIGTERM" else signal.SIGINT)
    assert (
        "To go on: probe fit --config fit.yaml --trainer.enable_progress_bar=false --resume" in capsys.readouterr().err
    )
