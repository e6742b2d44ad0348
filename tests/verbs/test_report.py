"""The page of a run holds what the run holds, opens without anything else, and runs nothing that a model wrote."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from small import fitted

from probe.cli import main
from probe.verbs.report import page


@pytest.fixture(scope="module")
def run(tiny_lm_folder: Path, small_sets: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fitted(
        tmp_path_factory.mktemp("run"),
        tiny_lm_folder,
        small_sets,
        "--steering.n_prompts=2",
        "--steering.max_new_tokens=4",
    )


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def read(html: str) -> Tags:
    parser = Tags()
    parser.feed(html)
    return parser


def test_verdict_table_figures_texts_and_settings_are_on_the_page(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(run.parents[2])
    assert main(["report"]) == 0
    html = (run / "report.html").read_text()
    found, metrics = read(html), json.loads((run / "metrics.json").read_text())
    assert metrics["verdict"].startswith("Verdict: ") and metrics["verdict"] in found.text
    rho = next(r for r in metrics["results"]["test"] if (r["metric"], r["column"]) == ("spearman", metrics["chosen"]))
    assert f"{rho['value']:.2f} [{rho['lower']:.2f}, {rho['upper']:.2f}]" in found.text
    images = [attrs for tag, attrs in found.found if tag == "img"]
    assert len(images) == len(list((run / "figures").glob("*.png"))) and all(attrs["alt"] for attrs in images)
    for line in (run / "steering.jsonl").read_text().splitlines():
        assert json.loads(line)["text"].strip() in found.text
    assert (run / "config.yaml").read_text().strip() in found.text


def test_it_needs_nothing_else_and_the_same_run_gives_the_same_bytes(run: Path) -> None:
    html = page(run)
    assert html == page(run)
    assert not re.search(r"https?://|<script|<link|@import|url\(", html)
    assert all(
        (attrs["src"] or "").startswith("data:image/png;base64,") for tag, attrs in read(html).found if tag == "img"
    )
    assert 'name="viewport"' in html


def test_what_a_model_wrote_is_text(run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    attack = "<script>alert(1)</script><img src=x onerror=alert(1)>{{ 7 * 7 }}"
    record = {"prompt": attack, "arm": attack, "strength": 1.0, "text": attack, "score": 0.5, "extra_nll": None}
    (folder / "steering.jsonl").write_text(json.dumps(record) + "\n")
    metrics = json.loads((run / "metrics.json").read_text())
    metrics["verdict"], metrics["provenance"]["concept"] = attack, attack
    (folder / "metrics.json").write_text(json.dumps(metrics))
    found = read(page(folder))
    assert not [tag for tag, _ in found.found if tag in ("script", "img")]
    assert found.text.count(attack) >= 5


def test_a_folder_without_a_result_is_refused(tmp_path: Path, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints/last.ckpt").write_bytes(b"")
    assert main(["report", "--run", str(tmp_path)]) == 2
    assert "expected a run of `fit` with its metrics.json" in capsys.readouterr().err
