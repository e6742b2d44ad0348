"""On 80 columns no table cuts a figure, however long the names are and however many figures are negative."""

import io
import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.table import Table

from probe.cli import main
from probe.metrics.bootstrap import Estimate
from probe.metrics.pairwise import WinRate
from probe.shown.terminal import Terminal
from probe.verbs.compare.comparison import LMResult
from probe.verbs.compare.standings import Standing
from probe.verbs.compare.table import standings_grid, transfer_grid
from probe.verbs.stories.report import StoriesReport
from probe.verbs.sweep.report import SweepReport

WORST = Estimate(-0.123, -0.876, -0.045, 12, 6)
"""Everything negative, and of too few groups."""
CONCEPT = "unputdownable-and-thoroughly-surprising"
MEASURES = ("score", "extra_nll", "kl", "repetition", "inventive_share", "well_formed_share", "compression_ratio")
WORDY = "a mean difference of the last tokens that nobody would ever call by a shorter name"


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")


def printed(table: Table) -> str:
    out = io.StringIO()
    Terminal(file=out).print(table)
    shown = out.getvalue()
    assert max(map(len, shown.splitlines())) <= 80
    assert "…" not in shown
    return shown


def whole_intervals(shown: str) -> int:
    """How many intervals stand whole in their line; a figure that is cut or broken up would leave half a bracket."""
    assert shown.count("[") == shown.count("]")
    found = re.findall(r"\[-?\d\.\d{2,3}, -?\d\.\d{2,3}\]", shown)
    assert len(found) == shown.count("[")
    return len(found)


def test_the_sweeps_three_sets() -> None:
    report = object.__new__(SweepReport)
    report.ground = SimpleNamespace(prompts=range(240), concept=CONCEPT)  # type: ignore[assignment]
    report.summaries = {name: dict.fromkeys(MEASURES, WORST) for name in ("uncreative", "steered", "creative")}
    shown = printed(report.table())
    assert whole_intervals(shown) == 3 * len(MEASURES)
    assert "[-0.876, -0.045]" in shown


def test_the_seven_sets_of_stories_and_their_wins_by_four_judges() -> None:
    names = ("uncreative", "creative", "steered", "asked", "random", "hot", "writer")
    report = object.__new__(StoriesReport)
    ground = SimpleNamespace(prompts=range(180), groups=["g"], concept=CONCEPT, told_by="inventive_share")
    report.sets = SimpleNamespace(ground=ground, shares=dict.fromkeys(names[1:], WORST))  # type: ignore[assignment]
    report.summaries = {name: dict.fromkeys(MEASURES, WORST) for name in names}
    assert whole_intervals(printed(report.table())) == 3 * len(names) - 1
    won = {("uncreative", "steered"): WinRate(Estimate(0.5, 0.25, 0.75, 9, 9), 2, 123)}
    report.rates = dict.fromkeys(["inventive_share", "score", "the model itself", "Meta-Llama-3-70B-Instruct"], won)
    shown = printed(report.win_table())
    assert whole_intervals(shown) == 4
    assert shown.count("123 unread") == 4


def test_the_standings_of_a_comparison_and_its_transfer_between_many_sets() -> None:
    sets = ["pairs", "pairs: prompts", "validation_stories", "a_set_with_a_name_of_its_own", "yet another set"]
    of_set = dict.fromkeys(("spearman", "pair_accuracy", "auroc", "length"), WORST)
    facts: dict[str, Any] = {"n_trainable": 1_769_472, "fit_seconds": 1234.5, "texts_per_second": 12345.0}
    standing = SimpleNamespace(
        lm="m", name=WORDY, estimates=dict.fromkeys(sets, of_set), difference=WORST, is_band=False,
        layers=tuple(range(20, 30)), span="response", **facts,
    )  # fmt: skip
    crossfit: Any = SimpleNamespace(
        tests=dict.fromkeys(sets), contrasts=dict.fromkeys(sets[:2]), main="pairs", judged_on="validation_stories", n_folds=5,
        metric_of=lambda _: "spearman",
    )  # fmt: skip
    standings: list[Standing] = [standing] * 9  # type: ignore[list-item]
    transfer = {contrast: {test: {WORDY: WORST} for test in sets} for contrast in sets[:2]}
    result: Any = SimpleNamespace(name=WORDY, standings=standings, transfer=transfer)
    _of_one(result)
    grid = standings_grid(result, crossfit, WORDY, {("m", WORDY): 0.0001})
    assert whole_intervals(printed(grid.table())) == 3 * 9
    assert "< 0.001" in printed(grid.table())
    assert grid.markdown().count("too few groups") == 9 * (len(sets) + 2), (
        "the file holds all columns, each cell one line"
    )
    assert printed(transfer_grid(result).table()).count("-0.12") == 2 * 4
    assert transfer_grid(result).markdown().count("[-0.88") == 2 * len(sets)


def _of_one(result: Any) -> None:
    assert set(vars(result)) <= set(LMResult.__dataclass_fields__), "the stand-in has no field that the real one lacks"


def test_the_list_of_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    made = {"lm": f"models/{WORDY}", "method": "MeanDifference", "span": "response", "pooling": "unit_mean"}
    number = {"metric": "spearman", "column": "layer_29", "value": -0.5, "lower": -0.75, "upper": -0.25}
    fit = {"provenance": made | {"concept": CONCEPT}, "chosen": "layer_29", "results": {"validation": [number]}}
    folder = Path("lightning_logs", "an_experiment_with_a_name_that_somebody_thought_about_for_long", "version_1234")
    folder.mkdir(parents=True)
    (folder / "metrics.json").write_text(json.dumps(fit))
    assert main(["runs"]) == 0
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= 80
    assert "-0.50 [-0.75, -0.25]" in shown
    assert CONCEPT in "".join(shown.split())
    assert "…" not in shown
