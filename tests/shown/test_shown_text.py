"""Shown text is text: hostile data, models, cards and judges reach no terminal, viewer or spreadsheet as anything else."""

import ast
import csv
import io
import json
import re
from pathlib import Path

import pytest
import yaml
from rich.table import Table
from rich.text import Text
from tensorboard.plugin_util import markdown_to_safe_html

from probe.cli import main
from probe.files import write_csv
from probe.shown.escapes import csv_cell, from_csv_cell, markdown, plain
from probe.shown.terminal import Terminal
from probe.steering.measuring import SteeredText
from probe.steering.samples import sample_table

ROOT = Path(__file__).parents[2]
ESCAPES = "\x1b]0;owned\x07\x1b[2J\x9b31m\rback\x08\u202eright to left\u2066\ud800"
MARKUP = "[/red] [bold]b[/bold] [link=http://x]l[/link] :smile: [0.1, 0.2]"
MARKDOWN = (
    "![i](http://x/i.png) [l](http://x) [l]: http://x\n\n[r][l] <img src=http://x> <http://x> <b>b</b> `c` | d | **e** &lt;\n"
    "# h\n- [x](y)\n    code\n~~~\n$x$ [0.1, 0.2](http://x) [1]: http://x"
)
FORMULAS = ["=1+1", "+1+1", "-1+1", "@SUM(A1)", "\t=1", "\r=1", "＝1", "'=1", "-cmd|' /C calc'!A0"]
HOSTILE = f"{ESCAPES[:-1]} {MARKUP} {MARKDOWN}"


def printed(what: object, **settings) -> str:
    out = io.StringIO()
    Terminal(file=out, width=200, **settings).print(what)
    return out.getvalue()


def table_of(text: str) -> Table:
    table = Table(text, title=text, caption=text)
    table.add_row(text)
    table.add_row(Text(text, "bold"))
    return table


@pytest.mark.parametrize("make", [str, Text, table_of], ids=["str", "Text", "Table"])
def test_no_control_character_reaches_the_terminal_and_markup_is_shown(make) -> None:
    out = printed(make(HOSTILE))
    assert out == plain(out)
    assert "\x1b" not in out
    assert "".join(MARKUP.split()) in "".join(out.split())


def test_on_a_real_terminal_the_only_sequences_are_our_own_styles() -> None:
    out = printed(Text(HOSTILE, "bold"), force_terminal=True, color_system="standard")
    rest = re.sub(r"\x1b\[(1|0)m", "", out)
    assert rest == plain(rest)
    assert "\x1b[1m" in out


def test_letters_that_a_terminal_lacks_are_replaced() -> None:
    out = io.TextIOWrapper(io.BytesIO(), encoding="cp1252")
    Terminal(file=out, width=200).print(table_of("naïve 物語 →"))
    out.flush()
    assert "naïve ??" in out.buffer.getvalue().decode("cp1252")


def test_ordinary_texts_of_all_scripts_are_shown_as_they_are() -> None:
    for text in ("naïve — “quoted”\n\ttabbed", "物語", "می\u200cخواهم", "👩\u200d🚀", "a\u00a0b"):
        assert plain(text) == text


@pytest.mark.parametrize("text", [MARKDOWN, MARKUP, HOSTILE, *MARKDOWN.split("\n"), *MARKDOWN.split(" ")])
def test_tensorboard_makes_no_image_link_html_or_cell_of_a_text(text: str) -> None:
    cell = markdown_to_safe_html(f"| a |\n|---|\n| {markdown(text)} |\n")
    assert set(re.findall(r"<(\w+)", cell)) <= {"table", "thead", "tbody", "tr", "th", "td", "br"}
    assert cell.count("<td>") == 1
    assert set(re.findall(r"<(\w+)", markdown_to_safe_html(markdown(text)))) <= {"p", "br", "ul", "li", "pre", "code"}


def test_an_interval_in_markdown_stays_readable() -> None:
    assert markdown("0.5 [0.1, 0.2], p < 0.001 (a - b)") == "0.5 [0.1, 0.2], p < 0.001 (a - b)"


@pytest.mark.parametrize("formula", FORMULAS)
def test_a_spreadsheet_runs_no_cell_and_no_column_name(tmp_path: Path, formula: str) -> None:
    write_csv(tmp_path / "t.csv", [{"a": formula, formula: 1.0}])
    header, row = csv.reader(io.StringIO((tmp_path / "t.csv").read_text(encoding="utf-8"), newline=""))
    assert all(cell[0] not in "=+-@\t\r＝" for cell in (*header, *row))
    assert from_csv_cell(csv_cell(formula)) == formula


def test_numbers_in_a_table_stay_numbers(tmp_path: Path) -> None:
    write_csv(tmp_path / "t.csv", [{"a": -0.5, "b": -1e-05, "c": 3, "d": "a - b"}])
    assert (tmp_path / "t.csv").read_text().splitlines()[1] == "-0.5,-1e-05,3,a - b"


def test_a_sample_table_shows_hostile_texts_as_texts() -> None:
    table = sample_table([SteeredText(HOSTILE, "direction", 1.0, HOSTILE, 0.1, 0.2, 0.3, 0.0, 0)])
    shown = markdown_to_safe_html(table)
    assert shown.count("<td>") == 2
    assert not re.search("<(img|a|b|code|h1)\\b", shown)
    assert plain(shown) == shown


def test_nobody_prints_but_the_terminal() -> None:
    """Every console is a Terminal, and `print` says what is our own, or an error, which is made plain."""
    for path in sorted((ROOT / "probe").rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
        names = {ast.unparse(node.func) for node in calls}
        assert "Console" not in names or path.name == "progress.py", path
        assert "csv.DictWriter" not in names or path.name == "files.py", path
        assert not any(name.endswith("from_markup") for name in names), path
        if "print" in names:
            assert path.name in ("front.py", "progress.py", "devices.py", "stopped.py", "runs.py", "cache.py"), path
        for node in calls:
            if ast.unparse(node.func).endswith("add_text"):
                assert path.name in ("callback.py", "report.py")


@pytest.fixture
def hostile_sets(small_sets: dict[str, str], tmp_path: Path) -> dict[str, str]:
    """The small sets with a hostile beginning of every prompt, text and group."""
    hostile = f"{ESCAPES[:-1]} {MARKUP} ![i](http://x/i.png) <b>b</b> | d "
    paths = {}
    for name, path in small_sets.items():
        rows = [json.loads(line) for line in Path(path).read_text().splitlines()] if Path(path).exists() else []
        if rows:
            for row in rows:
                row |= {k: f"{hostile}{v}" for k, v in row.items() if isinstance(v, str)}
            paths[name] = str(tmp_path / f"{name}.jsonl")
            Path(paths[name]).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return paths


def test_no_verb_lets_hostile_data_or_hostile_names_through(
    hostile_sets: dict[str, str],
    tiny_lm_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    lm = {"model": str(tiny_lm_folder), "device": "cpu"}
    name = "=[/red] $x_{ \x1b[31m ![i](http://x)"
    config = {
        "lm": lm,
        "model": {"class_path": "MeanDifference"},
        "data": {"class_path": "ContrastData", "init_args": hostile_sets},
        "steering": {"n_prompts": 2, "max_new_tokens": 4, "n_random": 1},
        "trainer": {
            "enable_progress_bar": False,
            "logger": {"class_path": "TensorBoardLogger", "init_args": {"save_dir": "out[/red]x"}},
        },
    }
    Path("fit.yaml").write_text(yaml.safe_dump(config))
    scorers = {name: {"scorer": "MeanDifference"}, "length": {"scorer": "Length"}}
    Path("compare.yaml").write_text(yaml.safe_dump({"scorers": scorers, "lms": [lm], "data": hostile_sets}))
    prompts = [json.loads(line) for line in Path(hostile_sets["pairs"]).read_text().splitlines()]
    Path("prompts.jsonl").write_text("".join(json.dumps(p) + "\n" for p in prompts[:2]))
    assert main(["fit", "--config", "fit.yaml"]) == 0
    direction = next(Path().glob("out*/**/direction"))
    card = json.loads((direction / "direction.json").read_text())
    card["provenance"] |= {"method": ESCAPES + MARKUP, "lm": str(tiny_lm_folder)}
    (direction / "direction.json").write_text(json.dumps(card))
    assert main(["generate", HOSTILE, "--direction", str(direction), "--max_new_tokens=4"]) == 0
    assert main(
        ["audit", f"--data.pairs={hostile_sets['pairs']}", "--lm.model", str(tiny_lm_folder), "--tokens=2"]
    ) in (1, 3)
    assert main(["pairs", "--input=prompts.jsonl", "--output=o.jsonl", "--dry_run=true"]) == 0
    fast = ["--folds=2", "--resamples=20", f"--reference={name}"]
    assert main(["compare", "--config", "compare.yaml", *fast]) == 0
    assert main(["fit", "--config", "fit.yaml", "--data.init_args.pairs", f"{ESCAPES[:-1]}.jsonl"]) != 0
    assert main(["fit", "--config", "fit.yaml", f"--model.init_args.{ESCAPES[:9]}", "1"]) != 0
    out, err = capsys.readouterr()
    assert "[/red]" in out
    for shown in (out, re.sub("\r|\x1b\\[[AK0-9;]*m?", "", err) if "Loading weights" in err else err):
        assert shown == plain(shown)
        assert "\x1b" not in shown
    report = Path("lightning_logs/compare/version_0")
    assert "<img" not in markdown_to_safe_html((report / "compare.md").read_text(encoding="utf-8"))
    with (report / "compare.csv").open(encoding="utf-8", newline="") as file:
        assert {row["scorer"][0] for row in csv.DictReader(file)} == {"'", "l"}
