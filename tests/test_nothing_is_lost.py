"""What was worked for is on the disk: folders are tried first, files stand before figures, and no fault shows a traceback."""

import io
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tiny import build_model, build_tokenizer

import probe.cli.front
from probe.cli import main
from probe.data.texts import stdin_lines
from probe.errors import ProbeError
from probe.files import atomic_write, try_file, try_folder, write_json
from probe.lm.frozen import FrozenLM
from probe.lm.writer import Written

Fitted = tuple[Path, dict[str, str]]
ROOT = Path(__file__).parents[1]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 64 KB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("this machine lets no test mount a disk")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def fill(folder: Path) -> None:
    with (folder / "filler").open("wb", buffering=0) as file, pytest.raises(OSError, match="No space left"):
        while True:
            file.write(bytes(4096))


@pytest.fixture
def here(fitted: Fitted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with the config of a fit, and the direction that it found."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(fitted[0] / "lightning_logs/probe/version_0/direction", "direction")
    shutil.copy(fitted[0] / "fit.yaml", "fit.yaml")
    return tmp_path


def one_line(capsys: pytest.CaptureFixture[str], code: int, *argv: str) -> str:
    """Runs a verb, and returns the one line in which it says why it ended."""
    assert main(argv) == code
    shown = capsys.readouterr().err
    assert "Traceback" not in shown
    (line,) = [line for line in shown.splitlines() if "error" in line.lower()]
    assert line.startswith("error: ")
    return line


# Folders are tried first


def test_a_folder_that_takes_no_byte_is_refused_and_a_good_one_is_left_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file/below", Path("/proc/none")):
        with pytest.raises(ProbeError, match=rf"{folder}: cannot be written to \(.*choose another --there"):
            try_folder(folder, "--there")
    assert try_folder(tmp_path / "new/below", "--there") == tmp_path / "new/below"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_full_disk_is_found_before_the_work_and_leaves_what_stood_there(disk: Path) -> None:
    write_json(disk / "kept.json", ["whole"])
    fill(disk)
    with pytest.raises(ProbeError, match=r"cannot be written to \(No space left on device\)"):
        try_folder(disk, "--there")
    with pytest.raises(ProbeError, match=r"kept.json: cannot be written \(No space left on device\); free space"):
        write_json(disk / "kept.json", ["other"] * 1000)
    assert json.loads((disk / "kept.json").read_text()) == ["whole"]
    assert {path.name for path in disk.iterdir()} == {"kept.json", "filler"}


def test_a_file_is_not_written_over_a_folder_or_a_device(tmp_path: Path) -> None:
    for path in (tmp_path, Path("/dev/full")):
        with pytest.raises(ProbeError, match=r"--output .*: expected a file, or none yet"):
            try_file(path, "--output")
    with pytest.raises(ProbeError, match="expected its folder to be there"):
        try_file(tmp_path / "none/x", "--output")
    assert try_file(tmp_path / "x", "--output") == tmp_path / "x"
    assert not list(tmp_path.iterdir())


def test_a_link_to_a_file_stays_one(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real/x.json")
    write_json(try_file(tmp_path / "link", "--output"), ["whole"])
    assert (tmp_path / "link").is_symlink()
    assert json.loads((tmp_path / "real/x.json").read_text()) == ["whole"]


def test_what_a_library_cannot_write_is_said_in_one_sentence_too(disk: Path) -> None:
    import torch
    from safetensors.torch import save_file

    with pytest.raises(ProbeError, match=r"x.safetensors: cannot be written \(.*No space left on device"):
        atomic_write(disk / "x.safetensors", lambda path: save_file({"x": torch.zeros(64 * 1024)}, path))
    assert not list(disk.iterdir())


def words(verb: str, files: dict[str, str], lm: str) -> list[str]:
    """A command of each verb that works; where its results go is left to say."""
    data = [f"--data.{name}={path}" for name, path in files.items()]
    small = ["--direction=direction", "--n_prompts=2", "--steering.max_new_tokens=4"]
    mean = "{mean difference: {scorer: MeanDifference}}"
    return {
        "audit": ["audit", f"--data.pairs={files['pairs']}", "--span=response"],
        "compare": ["compare", *data, f"--lms=[{{model: {lm}}}]", f"--scorers={mean}", "--folds=2", "--resamples=20"],
        "generate": ["generate", "Sing.", "--direction=direction", "--max_new_tokens=4"],
        "pairs": ["pairs", "--input=prompts.jsonl", f"--lm.model={lm}", "--max_new_tokens=4", "--longest=99"],
        "stories": ["stories", *data, *small],
        "sweep": ["sweep", *data, *small, "--n_test_prompts=4", "--n_random=1", "--strengths=[1.0]"],
        "votes": ["votes", "ann.csv", "--key=key.jsonl"],
    }[verb]


@pytest.mark.parametrize(
    ("verb", "option", "place"),
    [(verb, "--output", "file/below") for verb in ("compare", "stories", "sweep")]
    + [("compare", "--cache_dir", "file/below")]
    + [
        (verb, "--output", place)
        for verb in ("audit", "generate", "pairs", "votes")
        for place in ("direction", "/dev/full")
    ],
)
def test_a_verb_tries_the_place_of_its_results_before_anything_else(
    here: Path, fitted: Fitted, tiny_lm_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    verb: str, option: str, place: str,
) -> None:  # fmt: skip
    Path("file").touch()
    Path("prompts.jsonl").write_text('{"creative": "Write of a hen.", "group": "hens"}\n')
    monkeypatch.setattr(FrozenLM, "load", lambda spec: pytest.fail("the weights were loaded"))
    told = one_line(capsys, 2, *words(verb, fitted[1], str(tiny_lm_folder)), option, place)
    assert place in told
    assert option in told


def test_a_sweep_tries_the_folder_of_the_direction_first_and_writes_its_report_before_it(
    here: Path, fitted: Fitted, disk: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from probe.verbs.sweep import trial as sweep_trial

    shutil.copytree("direction", disk / "direction")
    sweep = [*words("sweep", fitted[1], ""), f"--direction={disk}/direction"]
    before = Path(disk / "direction/direction.json").read_bytes()
    judged = sweep_trial.judge

    def judge_and_fill(*args: Any) -> Any:
        fill(disk)
        return judged(*args)

    monkeypatch.setattr(sweep_trial, "judge", judge_and_fill)
    assert "disk/direction/direction.safetensors: cannot be written" in one_line(capsys, 2, *sweep)
    assert Path(disk / "direction/direction.json").read_bytes() == before
    assert {"sweep.json", "sweep.csv", "texts.jsonl"} <= {
        p.name for p in Path("lightning_logs/sweep/version_0").iterdir()
    }
    monkeypatch.setattr(sweep_trial, "search", lambda *_: pytest.fail("it was searched"))
    assert "disk/direction: cannot be written to (No space left on device)" in one_line(capsys, 2, *sweep)


def test_texts_are_kept_prompt_by_prompt(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = FrozenLM.write

    def until_the_third(lm: FrozenLM, prompts: Any, *args: Any, **kwargs: Any) -> list[Written]:
        if "Three." in prompts:
            raise KeyboardInterrupt
        return write(lm, prompts, *args, **kwargs)

    monkeypatch.setattr(FrozenLM, "write", until_the_third)
    steering = ["--strength=1", "--strength_unit=gap"]  # a dose would be measured on the prompts first
    options = ["--direction=direction", *steering, "--max_new_tokens=4", "--output=texts.jsonl"]
    assert main(["generate", "One.", "Two.", "Three.", *options]) == 130
    kept = [json.loads(line)["prompt"] for line in Path("texts.jsonl").read_text().splitlines()]
    assert kept == ["One.", "One.", "Two.", "Two."]


# Files stand before figures


@pytest.mark.parametrize(
    ("verb", "drawing", "left"),
    [
        ("compare", "verbs.compare.figures.curves_over_layers", {"compare.json", "compare.csv", "compare.md"}),
        ("stories", "verbs.stories.report.distributions", {"stories.json", "stories.csv", "texts.jsonl", "ballot.csv"}),
        ("sweep", "verbs.sweep.report.heat_map", {"sweep.json", "sweep.csv", "texts.jsonl"}),
    ],
)
def test_a_figure_that_cannot_be_drawn_loses_no_result(
    here: Path, fitted: Fitted, tiny_lm_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    verb: str, drawing: str, left: set[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(f"probe.{drawing}", lambda *_: 1 / 0)
    ballot = ["--ballot=2"] if verb == "stories" else []
    assert main([*words(verb, fitted[1], str(tiny_lm_folder)), *ballot]) == probe.cli.front.UNFORESEEN
    shown = capsys.readouterr()
    assert "Verdict" in shown.out
    assert "ZeroDivisionError" in shown.err
    assert left <= {path.name for path in Path(f"lightning_logs/{verb}/version_0").iterdir()}


def test_a_fits_figure_that_cannot_be_drawn_loses_no_result(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from probe.verbs.fit import report as reporting

    drawn = reporting.score_histogram
    asked = iter([drawn, lambda *_: 1 / 0])  # of validation, and of test
    monkeypatch.setattr(reporting, "score_histogram", lambda *args: next(asked)(*args))
    assert main(["fit", "--config=fit.yaml"]) == probe.cli.front.UNFORESEEN
    run = Path("lightning_logs/probe/version_0")
    assert {"metrics.json", "metrics.csv", "direction"} <= {path.name for path in run.iterdir()}
    assert set(json.loads((run / "metrics.json").read_text())["results"]) == {"validation", "test"}


@pytest.mark.parametrize("kind", ["one row", "equal ratings"])
def test_degenerate_test_stories_are_judged_as_far_as_they_go(
    here: Path, fitted: Fitted, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [json.loads(line) for line in Path(fitted[1]["test_stories"]).read_text().splitlines()]
    rows = rows[:1] if kind == "one row" else [row | {"rating": 0.5} for row in rows]
    Path("stories.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(["fit", "--config=fit.yaml", "--data.init_args.test_stories=stories.jsonl"]) == 0
    assert "Verdict: it ranks nothing here" in capsys.readouterr().out
    found = json.loads(Path("lightning_logs/probe/version_0/metrics.json").read_text())["results"]["test"]
    assert {row["value"] for row in found if row["metric"] == "spearman"} == {None}


@pytest.mark.faults
def test_a_run_whose_folder_looks_like_markup_is_on_the_disk(here: Path) -> None:
    main(["fit", "--config=fit.yaml", "--trainer.logger.init_args.save_dir=out[/red]x"])
    left = {path.name for path in Path("out[/red]x/probe/version_0").iterdir()}
    assert {"metrics.json", "metrics.csv", "direction", "checkpoints"} <= left


# Terminals and standard input


@pytest.mark.parametrize("encoding", ["cp1252", pytest.param("ascii", marks=pytest.mark.faults)])
def test_a_terminal_that_cannot_show_a_character_shows_another_and_loses_nothing(
    here: Path, fitted: Fitted, encoding: str
) -> None:
    rows = [json.loads(line) for line in Path(fitted[1]["pairs"]).read_text().splitlines()]
    rows += [rows[0] | {"response_creative": "猫 → “café”"}] * 2
    Path("odd.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    environment = os.environ | {"PYTHONIOENCODING": encoding, "PYTHONPATH": str(ROOT)}
    audit = [sys.executable, "-m", "probe", "audit", "--data.pairs=odd.jsonl", "--span=response", "--output=audit.json"]
    done = subprocess.run(audit, env=environment, capture_output=True)
    assert done.returncode == 1, done.stderr
    assert "? ? " in done.stdout.decode(encoding)
    assert "猫 →" in Path("audit.json").read_text(encoding="utf-8")


def stdin(monkeypatch: pytest.MonkeyPatch, data: bytes, errors: str = "strict") -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data), encoding="utf-8", errors=errors))


@pytest.mark.parametrize("errors", ["strict", "surrogateescape"])
@pytest.mark.parametrize(
    "line",
    ["\ud800".encode("utf-8", "surrogatepass"), b"\x89PNG\r\x1a", b"caf\xe9", "Sing.".encode("utf-16-le"), b"a\0b"],
    ids=["lone surrogate", "binary", "latin-1", "utf-16", "nul"],
)
def test_what_is_no_text_on_the_standard_input_is_refused_by_its_line(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], line: bytes, errors: str
) -> None:
    stdin(monkeypatch, b"A good line.\n" + line + b"\n", errors)
    assert "standard input, line 2" in one_line(capsys, 2, "generate", "-", "--direction=direction")


def test_the_standard_input_is_read_line_by_line_without_empty_ones_or_a_byte_order_mark(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stdin(monkeypatch, "\ufeffOne.\r\n\n  \n Two: 猫. \nThree.".encode())
    assert list(stdin_lines()) == ["One.", "Two: 猫.", "Three."]
    monkeypatch.setattr(sys, "stdin", None)  # as under a daemon
    assert list(stdin_lines()) == []


def test_a_word_of_the_command_that_is_no_utf8_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert "holds half of a surrogate pair" in one_line(capsys, 2, "generate", os.fsdecode(b"Sing, caf\xe9."))


# One line, whatever happens


@pytest.mark.parametrize("name", ["..", ".", "", ".hidden", "a/b", "a b", "7up", "probe.", "x\0y", "no_such_package"])
def test_an_odd_plugin_is_refused(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert "--plugin" in one_line(capsys, 2, "fit", "--plugin", name)
    assert "--plugin" in one_line(capsys, 2, "fit", f"--plugin={name}")


def test_a_plugin_without_a_name_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert "--plugin: expected the name of a package" in one_line(capsys, 2, "fit", "--plugin")


@pytest.mark.parametrize("source", ["1 / 0", "def", "raise SystemExit('stop')", "import no_such_package"])
def test_a_plugin_that_cannot_be_imported_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], source: str
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "broken_plugin.py").write_text(source)
    assert "--plugin broken_plugin: expected a package that can be imported, but" in one_line(
        capsys, 2, "fit", "--plugin=broken_plugin"
    )


def whole(told: str) -> str:
    """The file that the last resort names."""
    found = re.search(r"please report it with (\S+), which", told)
    assert found, told
    text = Path(found[1]).read_text(encoding="utf-8")
    Path(found[1]).unlink()
    return text


def test_a_fault_that_nobody_foresaw_is_one_line_that_names_the_file_of_its_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(probe.cli.front, "run_command", lambda *_: {}["no such\nkey"])
    told = one_line(capsys, probe.cli.front.UNFORESEEN, "audit", "--data.pairs", "my file")
    assert "KeyError" in told
    text = whole(told)
    assert text.startswith("probe audit --data.pairs 'my file'\n")
    assert "Traceback (most recent call last)" in text
    monkeypatch.setenv("PROBE_DEBUG", "1")
    with pytest.raises(KeyError):
        main(["audit"])


def test_so_is_one_inside_a_lightning_run(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("probe.scorers.judging.Judge.judge", lambda *_: 1 / 0)
    told = one_line(capsys, probe.cli.front.UNFORESEEN, "fit", "--config=fit.yaml")
    assert "division by zero" in whole(told)


def test_an_exception_that_stands_behind_itself_ends_the_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: Any) -> int:
        first, second = KeyError("first"), ValueError("second")
        first.__context__, second.__context__ = second, first
        raise first

    monkeypatch.setattr(probe.cli.front, "run_command", fail)
    whole(one_line(capsys, probe.cli.front.UNFORESEEN, "audit"))


# Full disks


@pytest.mark.faults
@pytest.mark.parametrize("size", ["8k", "24k", "100k"])
@pytest.mark.parametrize("option", ["--model.init_args.cache_dir", "--trainer.logger.init_args.save_dir"])
def test_a_disk_that_fills_during_a_fit_ends_it_in_one_sentence(here: Path, disk: Path, option: str, size: str) -> None:
    subprocess.run(["mount", "-o", f"remount,size={size}", disk], check=True)
    fit = [sys.executable, "-m", "probe", "fit", "--config=fit.yaml", option, str(disk)]
    done = subprocess.run(fit, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2
    assert "No space left on device" in done.stderr.splitlines()[-1]
    assert done.stderr.splitlines()[-1].startswith("error: ")
    assert "Traceback" not in done.stderr


def test_a_disk_that_fills_during_a_comparison_keeps_the_finished_fits(
    here: Path,
    own_cache: Path,
    fitted: Fitted,
    disk: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from probe.verbs.compare.tournament import FitStore

    compare = words("compare", fitted[1], "model")
    build_model().save_pretrained("model")
    build_tokenizer().save_pretrained("model")
    fits = disk / "fits"
    fits.mkdir()
    (own_cache / "fits").symlink_to(fits)
    save, saved = FitStore.save, []

    def save_and_fill(store: FitStore, key: str, fit: Any) -> None:
        if len(saved) == 2:
            fill(disk)
        save(store, key, fit)
        saved.append(key)

    monkeypatch.setattr(FitStore, "save", save_and_fill)
    assert main(compare) == 2
    assert "cannot be written" in capsys.readouterr().err.splitlines()[-1]
    (disk / "filler").unlink()
    monkeypatch.setattr(FitStore, "save", save)
    assert {path.stem for path in fits.iterdir()} == set(saved)
    assert len(saved) == 2
