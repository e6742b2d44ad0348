"""The positive control: the organism meets its bars on unseen sentence frames of family B and unseen premises."""

import json
from pathlib import Path

import pytest

from probe.cli import main

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def metrics(tmp_path_factory: pytest.TempPathFactory) -> dict:
    folder = tmp_path_factory.mktemp("organism")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        (folder / "data").symlink_to(ROOT / "data")
        assert (
            main(("fit", "--config", str(ROOT / "configs/organism.yaml"), "--trainer.enable_progress_bar=false")) == 0
        )
        run = folder / "lightning_logs/probe/version_0"
        return json.loads((run / "metrics.json").read_text()) | {"run": run}


def test_the_mean_difference_ranks_unseen_frames_beyond_every_control(metrics: dict) -> None:
    test = {(r["metric"], r["column"]): r for r in metrics["results"]["test"] if r["column"] == metrics["chosen"]}
    column = metrics["chosen"]
    rho = test["spearman", column]
    assert rho["n"] >= 300
    assert rho["n_groups"] >= 20
    assert rho["value"] >= 0.75
    assert rho["value"] > metrics["random_directions"]["test"]["p95"]
    assert metrics["margins_on_test"]["bag_of_words"]["lower"] > 0
    assert metrics["margins_on_test"]["length"]["lower"] > 0
    assert min(test["spearman_low", column]["value"], test["spearman_high", column]["value"]) >= 0.4


def test_random_directions_given_the_same_choices_cannot_rank_the_stories(metrics: dict) -> None:
    # The register is one factor among many: where it is the only one that varies, any direction finds it.
    assert metrics["random_directions"]["test"]["p95"] <= 0.5


def test_steering_makes_dull_stories_inventive_in_the_eyes_of_the_grammar(metrics: dict) -> None:
    curve = metrics["steering"]["curves"]
    assert curve["inventive_share"]["2.0"]["value"] > curve["inventive_share"]["0.0"]["value"] + 0.3
    assert curve["well_formed_share"]["2.0"]["value"] >= 0.8
    _, high = metrics["steering"]["random_directions_5_95"]["inventive_share"]["2.0"]
    assert high < curve["inventive_share"]["2.0"]["value"]


@pytest.mark.parametrize("name", ["lm0", "lm1"])
def test_the_embedded_models_meet_their_cards(name: str) -> None:
    folder = ROOT / "data/storyteller" / name
    measured = json.loads((folder / "measured.json").read_text())
    assert measured["n"] >= 500
    assert measured["well_formed"] >= 0.95
    assert measured["inventive_creative"] >= 0.75
    assert measured["inventive_uncreative"] <= 0.25
    assert measured["distinct"] >= 0.95
    assert measured["copies"] <= 0.01
    assert (folder / "model.safetensors").stat().st_size <= 16e6
    assert f"{measured['well_formed']:.3f}" in (folder / "README.md").read_text()
