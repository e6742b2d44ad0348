"""CONTRIBUTING's table is true: each row is done here, in a module of one's own or in a copy of the package, and used."""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from probe.cli import main
from probe.data.rows import FORMATS
from probe.metrics.metric import METRICS
from probe.scorers.judging import CONTROLS
from probe.verbs.export import EXPORTS

ROOT = Path(__file__).parents[1]
TABLE = re.findall(r"^\| (\w[\w ]*) \| ", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"), re.MULTILINE)[1:]

PLUGIN = '''
import csv
import torch
from probe import FrozenScorer
from probe.data.rows import FORMATS
from probe.metrics.metric import METRICS, Metric
from probe.metrics.ranks import to_numpy
from probe.scorers.judging import CONTROLS


class Projection(FrozenScorer):
    """The mean state's share along the first training pair's difference."""

    def build(self):
        self.register_buffer("axis", torch.zeros(len(self.extractor.layers), self.lm.hidden_size))

    def training_step(self, batch, _):
        h = self.features["train"].pooled(self.pooling)
        self.axis.copy_(h[0] - h[1])
        super().training_step(batch, _)

    def score_activations(self, activations):
        return torch.einsum("nld,ld->nl", activations.pooled(self.pooling), self.axis)


METRICS.append(Metric("gap", "gap of the halves' means", 0, lambda texts, w: _gap(texts, w)))
CONTROLS["letters"] = lambda scorer, split: to_numpy(
    torch.tensor([float(len(row.passage(scorer.span).pooled)) for row in scorer.data.rows[split]])
)
FORMATS[".tsv"] = lambda path: ((record, str(path)) for record in csv.DictReader(path.open(), delimiter="\\t"))


def _gap(texts, w):
    high = texts.truth > texts.middle
    return (w[:, high] @ texts.scores[high]) / w[:, high].sum(1)[:, None]
'''


@pytest.fixture(scope="module")
def added(tiny_lm_folder: Path, small_sets: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of a run whose scorer, metric, control and data format are all of one plugin."""
    folder = tmp_path_factory.mktemp("plugin")
    (folder / "mine.py").write_text(PLUGIN)
    pairs = [json.loads(line) for line in Path(small_sets["pairs"]).read_text().splitlines()]
    with (folder / "pairs.tsv").open("w", newline="") as file:
        writer = csv.DictWriter(file, pairs[0], delimiter="\t")
        writer.writeheader()
        writer.writerows(pairs)
    before = list(METRICS), dict(CONTROLS), dict(FORMATS)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(str(folder))
        fit = ["fit", "--plugin", "mine", "--model", "Projection", "--lm.model", str(tiny_lm_folder)]
        fit += ["--data", "ContrastData", "--data.init_args.pairs", "pairs.tsv", "--steering.n_prompts", "0"]
        assert main(fit) == 0
    yield folder / "lightning_logs/probe/version_0"
    METRICS[:] = before[0]
    for mapping, held in ((CONTROLS, before[1]), (FORMATS, before[2])):
        mapping.clear()
        mapping.update(held)


def test_a_scorer_is_one_class(added: Path) -> None:
    report = json.loads((added / "metrics.json").read_text())
    assert report["provenance"]["method"] == "Projection"
    assert report["chosen"].startswith("layer_")


@pytest.mark.parametrize(
    ("row", "metric", "column"), [("metric", "gap", "layer_0"), ("control", "spearman", "letters")]
)
def test_a_metric_or_a_control_is_one_entry_and_stands_in_the_results(
    added: Path, row: str, metric: str, column: str
) -> None:
    assert row in TABLE
    judged = json.loads((added / "metrics.json").read_text())["results"]["test"]
    (found,) = [r for r in judged if (r["metric"], r["column"]) == (metric, column)]
    assert found["lower"] <= found["value"] <= found["upper"]
    assert column in (added / "metrics.csv").read_text()


def test_a_data_format_is_one_entry(added: Path, small_sets: dict[str, str]) -> None:
    pairs = Path(small_sets["pairs"]).read_text().splitlines()
    held_out = json.loads((added / "metrics.json").read_text())["provenance"]
    assert 0 < held_out["n_pairs"] < len(pairs)
    assert held_out["n_groups"] == len({json.loads(pair)["group"] for pair in pairs}) * 3 // 5


def test_a_reading_is_a_word_and_a_rule(tmp_path: Path, tiny_lm_folder: Path, small_sets: dict[str, str]) -> None:
    shutil.copytree(ROOT / "probe", tmp_path / "probe", ignore=shutil.ignore_patterns("__pycache__"))
    file = tmp_path / "probe/data/reading.py"
    code = file.read_text()
    rule = '    "opening": lambda row: Passage(row.prompt, (row.response or "").split(".")[0] + "."),\n'
    for before, after in (
        ('"reply", "response"]', '"reply", "response", "opening"]'),
        ('    "response": _answer,\n', f'    "response": _answer,\n{rule}'),
    ):
        assert before in code
        code = code.replace(before, after)
    file.write_text(code)
    words = ["fit", "--model", "MeanDifference", "--model.init_args.span", "opening", "--lm.model", str(tiny_lm_folder)]
    words += ["--data", "ContrastData", "--data.init_args.pairs", small_sets["pairs"], "--steering.n_prompts", "0"]
    env = os.environ | {"PYTHONPATH": str(tmp_path)}
    run = subprocess.run([sys.executable, "-m", "probe", *words], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    report = json.loads((tmp_path / "lightning_logs/probe/version_0/metrics.json").read_text())
    assert report["provenance"]["span"] == "opening"
    sides = [json.loads(line) for line in Path(small_sets["pairs"]).read_text().splitlines()]
    fields = ("creative", "uncreative", "response_creative", "response_uncreative")
    whole = sum(len(side[name].encode()) for side in sides for name in fields)
    assert 0 < report["reads"]["tokens"] < whole  # to the tiny model a byte is a token, and its template has more


STEERING_PLUGIN = """
def backwards(h, v):
    return h - v

class Vowels:
    tells = "vowels"
    def __call__(self, exhibits):
        return {"vowels": [sum(letter in "aeiou" for letter in one.text) for one in exhibits]}
"""


@pytest.fixture
def fit_folder(
    fitted: tuple[Path, dict[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[Path, dict[str, str]]:
    """A copy of the folder of a fit, with a module of one's own in it."""
    shutil.copytree(fitted[0], tmp_path / "mine")
    monkeypatch.chdir(tmp_path / "mine")
    monkeypatch.syspath_prepend(str(tmp_path / "mine"))
    Path("my_steering.py").write_text(STEERING_PLUGIN)
    return tmp_path / "mine", fitted[1]


def test_an_operator_is_one_function(fit_folder: tuple[Path, dict[str, str]]) -> None:
    def texts(*options: str) -> list[str]:
        words = ("generate", "Sing.", "--max_new_tokens=6", "--strength_unit=gap", "--output=texts.jsonl")
        assert main((*words, *options)) == 0
        return [json.loads(line)["text"] for line in Path("texts.jsonl").read_text().splitlines()]

    mine = texts("--plugin=my_steering", "--operator=my_steering.backwards", "--strength=8")
    assert mine == texts("--strength=-8") != texts("--strength=8")


def test_a_witness_is_one_class(fit_folder: tuple[Path, dict[str, str]]) -> None:
    small = ["--n_prompts=2", "--n_test_prompts=3", "--n_random=0", "--steering.max_new_tokens=4", "--strengths=[1.0]"]
    data = [f"--data.{name}={path}" for name, path in fit_folder[1].items()]
    assert main(["sweep", "--plugin=my_steering", "--witness=my_steering.Vowels", *data, *small]) == 0
    for line in Path("lightning_logs/sweep/version_0/texts.jsonl").read_text().splitlines():
        text = json.loads(line)
        assert text["vowels"] == sum(letter in "aeiou" for letter in text["text"])
    assert (
        "by the witness (vowels)"
        in json.loads(Path("lightning_logs/sweep/version_0/sweep.json").read_text())["verdict"][1].lower()
    )


def test_every_row_of_the_table_is_executed_here() -> None:
    here = Path(__file__).read_text(encoding="utf-8").replace("_", " ")
    assert len(TABLE) == 8
    assert not [row for row in TABLE if not re.search(rf"def test an? [\w ]*{row}", here)]


def test_what_the_table_names_is_there() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    named = {name for name in re.findall(r"`((?:probe|tests|docs)/[\w./]*|\.ci/run)`", text)}
    assert len(named) > 6
    assert not [name for name in named if not (ROOT / name).exists()]
    for variable, file in re.findall(r"`([A-Z]\w+)` of `([\w/.]+)`", text):
        assert re.search(rf"^{variable}\b", (ROOT / file).read_text(encoding="utf-8"), re.MULTILINE), variable


def test_an_export_is_one_entry(
    tiny_lm_folder: Path, small_sets: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "export" in TABLE
    (tmp_path / "my_export.py").write_text(
        "from probe.verbs.export import EXPORTS\n\n\n"
        "def lengths(what, output):\n"
        "    output.write_text(' '.join(f'{k}:{v.norm():.4f}' for k, v in what.vectors.items()))\n"
        "    return 'read it'\n\n\n"
        'EXPORTS["lengths"] = lengths\n'
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    fit = ["fit", "--model", "MeanDifference", "--lm.model", str(tiny_lm_folder), "--steering.n_prompts", "0"]
    assert main([*fit, "--data", "ContrastData", "--data.init_args.pairs", small_sets["pairs"]]) == 0
    before = dict(EXPORTS)
    words = ["export", "--plugin", "my_export", "--to", "lengths", "--output", str(tmp_path / "out.txt")]
    words += ["--strength", "3", "--strength_unit", "absolute", "--layer", "[0,1]"]
    assert main(words) == 0
    assert (tmp_path / "out.txt").read_text() == "0:1.5000 1:1.5000"
    EXPORTS.clear()
    EXPORTS.update(before)
