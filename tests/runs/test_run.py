"""A run can be used again: its scorer, out of its folder alone, gives every text the score that it gave in the run."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import probe
from probe.cli import main
from probe.data.reading import Passage
from probe.errors import ProbeError
from probe.runs.run import Run, load
from probe.scorers.lora_probe import LoRAProbe
from probe.steering.arms import Arm, write
from probe.steering.settings import Sampling

METHODS = (
    "MeanDifference", "LinearProbe", "LDA", "PCA", "BagOfWords", "Length", "Perplexity", "TypeTokenRatio",
    "RandomDirections", "LoRAProbe", "LoRAWriter",
)  # fmt: skip
SIDES = ("creative", "uncreative")
LORA = ("--trainer.max_epochs=2", "--data.init_args.batch_size=8")


@pytest.fixture(scope="module")
def runs(tiny_lm_folder: Path, small_sets: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which each method was fitted, as an experiment of its name, and its test texts scored by `predict`."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name in ("pairs", "validation_stories", "test_stories"):
            shutil.copy(small_sets[name], f"{name}.jsonl")
        data = {name: f"{name}.jsonl" for name in ("pairs", "validation_stories", "test_stories")}
        config = {
            "lm": {"model": str(tiny_lm_folder), "device": "cpu"},
            "data": {"class_path": "ContrastData", "init_args": data},
            "steering": {"n_prompts": 0},
            "trainer": {"enable_progress_bar": False},
        }
        Path("fit.yaml").write_text(yaml.safe_dump(config))
        for method in METHODS:
            named = (f"--model={method}", f"--trainer.logger.init_args.name={method}")
            options = ("--config=fit.yaml", *named, *(LORA if method.startswith("LoRA") else ()))
            assert main(["fit", *options]) == 0
            last = f"lightning_logs/{method}/version_0/checkpoints/last.ckpt"
            assert main(["predict", *options, f"--ckpt_path={last}"]) == 0
    return folder


@pytest.fixture
def here(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy to work in and to damage."""
    shutil.copytree(runs, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def predicted(method: str) -> list[dict[str, Any]]:
    lines = Path(f"lightning_logs/{method}/version_1/scores.jsonl").read_text(encoding="utf-8").splitlines()
    return [row for row in map(json.loads, lines) if row["side"] is None]


@pytest.mark.parametrize("method", METHODS)
def test_every_scorer_gives_a_text_the_score_that_it_gave_in_its_run(here: Path, method: str) -> None:
    rows = predicted(method)
    run = load(method)
    again = run.score([row["response"] for row in rows])
    assert again == pytest.approx([row["score"] for row in rows], rel=1e-4, abs=1e-5)
    assert len(set(again)) > 1
    (alone,) = run.score([rows[0]["response"]])
    assert alone == pytest.approx(again[0], rel=1e-4, abs=1e-5)


def test_a_percentile_is_the_share_of_training_texts_that_score_lower(here: Path) -> None:
    run = load("MeanDifference")
    pairs = [json.loads(line) for line in Path("pairs.jsonl").read_text().splitlines()]
    held_out = {row["group"] for name in ("validation", "test") for row in rows_of(f"{name}_stories.jsonl")}
    sides = [(p[side], p[f"response_{side}"]) for p in pairs if p["group"] not in held_out for side in SIDES]
    texts = [Passage(prompt, text) for prompt, text in sides]
    scores = np.array(run.score(texts))
    for score in scores[:4]:
        between = float(score) + 1e-5  # read in other batches, a text's own score may differ in the last digits
        assert run.percentile(between) == pytest.approx(100 * (scores < between).mean())
    assert (run.percentile(-9.0), run.percentile(9.0)) == (0.0, 100.0)


def rows_of(file: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(file).read_text().splitlines()]


def test_an_older_run_has_no_percentiles_and_says_so(here: Path) -> None:
    (here / "lightning_logs/MeanDifference/version_0/calibration.json").unlink()
    run = load("MeanDifference/version_0")
    assert np.isnan(run.percentile(0.0))
    assert "holds no scores of its training texts; fit anew" in run.no_percentile()


def test_a_direction_needs_no_data_and_a_scorer_that_does_refuses_others(here: Path) -> None:
    expected = {method: load(method).score(["Rain fell."]) for method in ("MeanDifference", "LinearProbe")}
    rows = Path("pairs.jsonl").read_text().splitlines()
    Path("pairs.jsonl").write_text("\n".join(reversed(rows[:-1])))
    for method in ("BagOfWords", "LoRAProbe"):
        with pytest.raises(ProbeError, match="needs the texts that it learned from, but they are others by now"):
            load(method).score(["Rain fell."])
    Path("pairs.jsonl").unlink()
    shutil.rmtree(".cache", ignore_errors=True)
    assert {method: load(method).score(["Rain fell."]) for method in expected} == expected
    assert not Path(".cache").exists()


def test_other_weights_or_settings_than_the_checkpoints_are_refused(here: Path, make_lm) -> None:
    other = make_lm(seed=1)
    other.model.save_pretrained("other")
    other.tokenizer.save_pretrained("other")
    with pytest.raises(ProbeError, match="was made with another lm_fingerprint"):
        load("LinearProbe", probe.LMSpec("other", device="cpu")).score(["Rain fell."])
    config = here / "lightning_logs/LinearProbe/version_0/config.yaml"
    config.write_text(config.read_text().replace("pooling: mean", "pooling: last"))
    with pytest.raises(ProbeError, match="another pooling"):
        load("LinearProbe").score(["Rain fell."])


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("class_path: probe.LinearProbe", "class_path: subprocess.Popen", "expected a scorer that is there"),
        ("class_path: probe.LinearProbe", "class_path: not_there.LinearProbe", "expected a scorer that is there"),
        ("class_path: probe.ContrastData", "class_path: os.system", "expected the config of a run"),
        ("trust_remote_code: false", "trust_remote_code: true", "may not run code of others"),
        ("iterations: 20", "iterations: many", "iterations"),
        ("model:\n  class_path", "modle:\n  class_path", "expected the config of a run"),
    ],
)
def test_a_runs_config_is_data(here: Path, monkeypatch: pytest.MonkeyPatch, old: str, new: str, says: str) -> None:
    monkeypatch.setitem(__import__("sys").modules, "not_there", None)
    config = here / "lightning_logs/LinearProbe/version_0/config.yaml"
    text = config.read_text()
    assert old in text
    config.write_text(text.replace(old, new))
    with pytest.raises(ProbeError, match=says):
        load("LinearProbe").score(["Rain fell."])


def test_three_lines_of_python_score_and_write(here: Path) -> None:
    run = probe.load("lightning_logs/MeanDifference/version_0")
    assert isinstance(run, Run)
    assert all(isinstance(score, float) for score in run.score(["Rain fell.", "The lamp sang."]))
    how = Sampling(8, 0.0)
    plain, steered = (run.generate("Write a story.", strength, "gap", how) for strength in (0.0, 8.0))
    assert plain == run.lm.generate(["Write a story."], 8, 0.0, 0)[0] != steered
    arm = Arm("by hand", run.direction.deltas(8.0, "gap", [run.direction.chosen or 0]))
    assert steered == write(run.lm, [("Write a story.", arm)], how)[0]
    assert (run.summary.method, run.summary.reading) == ("MeanDifference", "response, mean")


def test_a_run_steers_where_and_by_what_its_direction_recommends_as_the_verb_does(here: Path) -> None:
    run, how = probe.load("lightning_logs/MeanDifference/version_0"), Sampling(8, 0.0)
    others = [k for k in run.direction.layers if k != run.direction.chosen]
    recommended = {
        "layer": others[0],
        "strength": 8.0,
        "strength_unit": "gap",
        "tokens": "generated",
        "operator": "clamp",
    }
    run.direction = replace(run.direction, provenance={**run.direction.provenance, "recommended": recommended})
    arm = Arm("by hand", run.direction.deltas(8.0, "gap", [others[0]]), 8.0, "clamp")
    expected = write(run.lm, [("Write a story.", arm)], replace(how, tokens="generated"))[0]
    assert run.generate("Write a story.", 8.0, "gap", how) == expected
    everywhere = Arm("by hand", run.direction.deltas(1.0, "absolute", run.direction.layers), 1.0, "without")
    expected = write(run.lm, [("Write a story.", everywhere)], replace(how, tokens="generated"))[0]
    assert run.generate("Write a story.", how=how, operator="without") == expected
    assert run.generate("Write a story.", 0.0, how=how) == run.lm.generate(["Write a story."], 8, 0.0, 0)[0]


def test_a_run_without_a_direction_does_not_steer(here: Path) -> None:
    with pytest.raises(ProbeError, match="expected a saved direction"):
        load("LoRAProbe").generate("Sing.")


def test_a_prompt_alone_is_scored_as_the_run_read_its_instructions_or_not_at_all(here: Path) -> None:
    with pytest.raises(ProbeError, match="has read texts, not instructions"):
        load("MeanDifference").passage(None, "Sing.")
    assert main(["fit", "--config=fit.yaml", "--model=MeanDifference", "--model.init_args.span=reply"]) == 0
    run = load("newest")
    assert run.passage(None, "Sing.") == Passage("Sing.", at_reply=True)
    assert run.passage("La la.", "Sing.") == Passage("Sing.", "La la.")
    assert "learned from instructions" in run.no_percentile(run.passage("La la."))
    assert 0 <= run.percentile(0.1, run.passage(None, "Sing.")) <= 100


def test_scoring_remembers_no_text(here: Path) -> None:
    run = load("LoRAProbe")
    assert isinstance(run.scorer, LoRAProbe)

    for method in ("Perplexity", "MeanDifference"):
        run = load(method)
        for i in range(3):
            run.score([f"Rain fell {i} times."])
        assert len(run.scorer.extractor.answers) <= 1
        assert not run.scorer.extractor._encoded
    assert run.scorer.extractor.store is None


def test_what_a_restored_scorer_reads_is_remembered_where_a_fit_remembers_it(
    here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROBE_CACHE", str(tmp_path / "cache"))
    assert main(["fit", "--config=fit.yaml", "--model=LoRAProbe", *LORA]) == 0
    n_shards = len(list((tmp_path / "cache/activations").glob("*.safetensors")))
    assert n_shards > 0
    load("newest").score(["Rain fell."])
    assert not Path("auto").exists()
    assert len(list((tmp_path / "cache/activations").glob("*.safetensors"))) == n_shards
