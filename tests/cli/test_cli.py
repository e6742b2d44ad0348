"""The command line as a person meets it: in-process main(argv), and two real processes."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from probe.cli import main


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_lm_folder: Path, small_sets: dict[str, str]) -> Path:
    """A working folder with a config for a fit that takes seconds."""
    monkeypatch.chdir(tmp_path)
    config = {
        "lm": {"model": str(tiny_lm_folder), "device": "cpu"},
        "model": {"class_path": "MeanDifference"},
        "data": {"class_path": "ContrastData", "init_args": small_sets},
        "steering": {"n_prompts": 2, "max_new_tokens": 8},
        "trainer": {"enable_progress_bar": False},
    }
    Path("fit.yaml").write_text(yaml.safe_dump(config))
    return tmp_path


def refused(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """Runs argv, asserts a non-zero exit, and returns the one line that says why."""
    code = main(argv)
    err = capsys.readouterr().err
    assert code != 0
    assert "Traceback" not in err
    lines = [line for line in err.splitlines() if "error:" in line]
    assert len(lines) == 1, err
    return err[err.index("error:") :]


FIT = ("fit", "--config", "fit.yaml")


def test_fit_prints_a_table_a_verdict_stories_and_the_next_command(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(FIT) == 0
    out = " ".join(capsys.readouterr().out.split())
    in_order = (
        "texts to read",
        "Verdict: layer",
        "does not show",
        "pairs right",
        "Writing",
        "plain: ",
        "steered: ",
        "Next: ",
    )
    places = [out.find(word) for word in in_order]
    assert -1 not in places
    assert places == sorted(places)  # what a person waits for comes before what takes long
    (run,) = Path("lightning_logs/probe").iterdir()
    assert f"--direction {run / 'direction'}" in out
    assert "tensorboard --logdir lightning_logs" in out
    left = {path.name for path in run.iterdir()}
    assert {"metrics.json", "metrics.csv", "direction", "steering.jsonl", "config.yaml", "checkpoints"} <= left
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["reads"]["texts"] > 0
    rows = list(csv.DictReader((run / "metrics.csv").open()))
    assert {"split", "metric", "column", "value", "lower", "upper", "n", "n_groups"} == set(rows[0])
    assert {row["split"] for row in rows} == {"validation", "test"}

    # Again: the LM reads nothing; then from the checkpoint, with the same figures.
    assert main(FIT) == 0
    again = json.loads(Path("lightning_logs/probe/version_1/metrics.json").read_text())
    assert again["reads"]["texts"] == again["reads"]["tokens"] == 0
    assert again["results"] == metrics["results"]
    assert main(("test", *FIT[1:], "--ckpt_path", "last")) == 0
    tested = json.loads(Path("lightning_logs/probe/version_2/metrics.json").read_text())
    assert tested["results"]["test"] == metrics["results"]["test"]
    assert tested["chosen"] == metrics["chosen"]
    capsys.readouterr()
    assert main(("validate", *FIT[1:], "--ckpt_path", "last")) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "on validation: 20 rated stories" in shown
    assert "too few groups: 4" in shown
    assert main(("predict", *FIT[1:], "--ckpt_path", "last")) == 0
    scores = [json.loads(line) for line in Path("lightning_logs/probe/version_4/scores.jsonl").read_text().splitlines()]
    assert len(scores) == metrics["results"]["test"][0]["n"] + 16


def test_a_concept_of_ones_own_is_named_once_and_called_by_its_name(
    here: Path, small_sets: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [json.loads(line) for line in Path(small_sets["pairs"]).read_text().splitlines()]
    renamed = {
        "creative": "more",
        "uncreative": "less",
        "response_creative": "response_more",
        "response_uncreative": "response_less",
    }
    rows = [{renamed.get(name, name): value for name, value in row.items()} for row in rows]
    Path("pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    mine = ("--data.init_args.pairs", "pairs.jsonl", "--concept", "formal", "--steering.n_prompts", "0")
    assert main((*FIT, *mine)) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "formal texts from less formal ones" in shown
    assert "creativ" not in shown
    (run,) = Path("lightning_logs/probe").iterdir()
    assert json.loads((run / "direction/direction.json").read_text())["provenance"]["concept"] == "formal"
    assert yaml.safe_load((run / "config.yaml").read_text())["concept"] == "formal"
    assert main(("test", "--config", str(run / "config.yaml"), "--ckpt_path", "last")) == 0  # the config says it too
    assert "formal texts from less formal ones" in " ".join(capsys.readouterr().out.split())


def test_fit_of_the_probe_logs_a_loss_curve_per_layer(here: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    quiet = ("--trainer.max_epochs", "3", "--steering.n_prompts", "0")
    assert main((*FIT, "--model", "LinearProbe", "--model.init_args.iterations", "2", *quiet)) == 0
    events = EventAccumulator(str(here / "lightning_logs/probe/version_0")).Reload()
    assert "_hparams_/session_start_info" in events.summary_metadata
    losses = [e.value for e in events.Scalars("train/loss/layer_0")]
    assert len(losses) == 3
    assert losses == sorted(losses, reverse=True)


def test_help_names_every_verb_without_importing_torch() -> None:
    code = "import sys; from probe.cli import main; main([]); assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    for verb in ("fit", "validate", "test", "predict"):
        assert verb in done.stdout


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (("fitt",), "did you mean 'fit'"),
        (("fit", "--config", "none.yaml"), "none.yaml"),
        ((*FIT, "--data.pairs", "none.jsonl"), "none.jsonl: no such file"),
        ((*FIT, "--data.init_args.pairs=bad.jsonl"), "bad.jsonl:2"),
        ((*FIT, "--data.init_args.pairs=oneside.jsonl"), "`uncreative` is missing"),
        ((*FIT, "--data.init_args.pairs=empty.jsonl"), "empty.jsonl:1: expected `creative` to be a non-empty text"),
        ((*FIT, "--lm.model", "./nowhere"), "config.json"),
        ((*FIT, "--lm.model", "./t5"), "encoder-decoder"),
        ((*FIT, "--model.init_args.spam", "response"), "spam"),
        ((*FIT, "--trainer.max_epoch", "3"), "max_epoch"),
        ((*FIT, "--model.init_args.pooling", "max"), "max"),
        ((*FIT, "--model", "subprocess.Popen"), "Popen"),
        ((*FIT, "--model.init_args.layers", "[7]"), "blocks 0 to 2"),
        ((*FIT, "--data.init_args.pairs=few.jsonl"), "too few groups"),
        ((*FIT, "--model.init_args.cache_dir", "fit.yaml/cache"), "cache_dir"),
        ((*FIT, "--lm.model", "nobody/nothing"), "data/storyteller/lm0"),
        ((*FIT, "--lm.max_tokens", "20"), "no token"),
        ((*FIT, "--lm.max_tokens", "250", "--strict"), "--strict"),
        ((*FIT, "--ckpt_path", "none.ckpt"), "none.ckpt"),
        ((*FIT, "--ckpt_path", "last"), "last"),
        (("test", *FIT[1:]), "--ckpt_path"),
        ((*FIT, "--trainer.logger.init_args.save_dir", "fit.yaml/x"), "fit.yaml"),
    ],
    ids=lambda value: None if isinstance(value, str) else " ".join(value[-2:]),
)
def test_bad_input_ends_in_one_clear_sentence(
    here: Path, capsys: pytest.CaptureFixture[str], argv: tuple[str, ...], says: str
) -> None:
    pair = json.dumps({"creative": "a", "uncreative": "b", "group": "g"})
    Path("bad.jsonl").write_text(pair + "\n{oops\n")
    Path("oneside.jsonl").write_text(json.dumps({"creative": "a", "group": "g"}) + "\n")
    Path("few.jsonl").write_text(pair + "\n")
    Path("empty.jsonl").write_text(json.dumps({"creative": " ", "uncreative": "b", "group": "g"}) + "\n")
    Path("t5").mkdir()
    Path("t5/config.json").write_text(json.dumps({"model_type": "t5", "is_encoder_decoder": True}))
    assert says in refused(capsys, *argv)


def test_activations_that_are_not_finite_are_refused_with_the_row(
    here: Path, capsys: pytest.CaptureFixture[str], make_lm
) -> None:
    broken = make_lm()
    broken.model.model.layers[1].mlp.down_proj.weight.data.fill_(3e38)
    broken.model.save_pretrained("broken")
    broken.tokenizer.save_pretrained("broken")
    assert "not finite" in refused(capsys, *FIT, "--lm.model", "./broken")


def test_over_long_texts_are_cut_counted_and_reported(here: Path, recwarn: pytest.WarningsRecorder) -> None:
    assert main((*FIT, "--lm.max_tokens", "250", "--steering.n_prompts", "0")) == 0
    metrics = json.loads(Path("lightning_logs/probe/version_0/metrics.json").read_text())
    assert metrics["reads"]["truncated"] > 0
    assert any("were cut there" in str(w.message) for w in recwarn)


def test_a_config_that_the_first_release_saved_still_runs(here: Path, small_sets: dict[str, str]) -> None:
    saved = yaml.safe_load((Path(__file__).parent / "saved_by_604c451.yaml").read_text())
    saved["lm"]["model"] = yaml.safe_load(Path("fit.yaml").read_text())["lm"]["model"]
    saved["model"]["init_args"]["cache_dir"] = "cache"
    saved["data"]["init_args"] |= small_sets
    saved["steering"] |= {"n_prompts": 0}
    Path("saved.yaml").write_text(yaml.safe_dump(saved))
    assert main(["fit", "--config", "saved.yaml"]) == 0
    provenance = json.loads(Path("lightning_logs/probe/version_0/metrics.json").read_text())["provenance"]
    assert provenance["method"] == "MeanDifference"


def test_a_config_saved_by_a_run_runs_again_to_the_same_figures(here: Path) -> None:
    assert main(FIT) == 0
    assert main(("fit", "--config", "lightning_logs/probe/version_0/config.yaml")) == 0
    first, second = (json.loads(Path(f"lightning_logs/probe/version_{v}/metrics.json").read_text()) for v in (0, 1))
    assert first["results"] == second["results"]
