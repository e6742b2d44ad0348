"""Options that would starve a stage end in a sentence before the LM is read; those that change nothing change nothing."""

import json
from pathlib import Path

import pytest
import yaml

from probe.activations.extractor import ActivationExtractor
from probe.cli import main
from probe.data.splits import SplitRows
from probe.errors import ProbeError
from probe.steering.settings import Sampling

FIT = ("fit", "--config", "fit.yaml")
BATCHES = "--data.init_args.batch_size=4"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_lm_folder: Path, small_sets: dict[str, str]) -> Path:
    monkeypatch.chdir(tmp_path)
    config = {
        "lm": {"model": str(tiny_lm_folder), "device": "cpu"},
        "model": {"class_path": "MeanDifference"},
        "data": {"class_path": "ContrastData", "init_args": small_sets},
        "steering": {"n_prompts": 0},
        "trainer": {"enable_progress_bar": False},
    }
    Path("fit.yaml").write_text(yaml.safe_dump(config))
    return tmp_path


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--trainer.limit_val_batches=0"], "--trainer.limit_val_batches: expected all 1 batches"),
        (["--trainer.limit_train_batches=0"], "--trainer.limit_train_batches"),
        (["--trainer.limit_test_batches=0"], "--trainer.limit_test_batches"),
        (["--trainer.limit_val_batches=0.5"], "--trainer.limit_val_batches"),
        (["--trainer.limit_train_batches=1", BATCHES], "--trainer.limit_train_batches: expected all 6 batches"),
        (["--trainer.overfit_batches=1", BATCHES], "--trainer.limit_train_batches"),
        (["--trainer.fast_dev_run=true", BATCHES], "--trainer.limit_train_batches"),
        (["--trainer.check_val_every_n_epoch=2"], "found max_epochs 1"),
        (["--trainer.check_val_every_n_epoch=2", "--trainer.max_epochs=3"], "found max_epochs 3"),
        (["--trainer.max_epochs=0"], "at least one whole epoch"),
        (["--trainer.max_steps=0"], "at least one whole epoch"),
        (["--trainer.max_steps=5", BATCHES], "at least one whole epoch, which has 6 steps"),
        (["--trainer.val_check_interval=0"], "--trainer.val_check_interval 0"),
        (["--trainer.val_check_interval=2"], "--trainer.val_check_interval 2"),
        (["--trainer.val_check_interval=0.7", BATCHES], "--trainer.val_check_interval 0.7"),
        (["--model.init_args.layers=[]"], "model.init_args.layers: expected one value or more"),
        (["--trainer.max_epochs=-5"], "max_epochs"),
        (["--trainer.devices=0"], "devices='0'"),
        (["--trainer.devices=-3"], "int > 0"),
        (["--trainer.accelerator=cuda"], "not available"),
        (["--trainer.precision=transformer-engine"], "transformer_engine"),
        (["--seed_everything=-1"], "--seed_everything: expected Seed, but -1"),
        (["--seed_everything=99999999999"], "--seed_everything"),
        (["--data.init_args.seed=-1"], "data.init_args.seed: expected Seed, but -1"),
        (["--data.init_args.seed=9999999999999999999999"], "data.init_args.seed: expected Seed"),
        (["--steering.seed=9999999999999999999999"], "--steering.seed: expected Seed"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_an_option_that_starves_a_stage_is_refused_before_the_lm_reads(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, options: list[str], says: str
) -> None:
    monkeypatch.setattr(ActivationExtractor, "__call__", lambda *_, **__: pytest.fail("the LM was read"))
    assert main((*FIT, *options)) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert says in line
    assert not list(Path("lightning_logs").glob("*/*")), "a run without a result leaves no folder"


def test_a_fit_that_time_ended_before_an_epoch_had_is_no_result(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main((*FIT, "--trainer.max_time=00:00:00:00")) == 2
    assert "expected a whole epoch that was validated" in capsys.readouterr().err
    assert not list(Path("lightning_logs").glob("*/*"))


def test_a_limit_that_leaves_nothing_out_and_a_sanity_check_change_no_number(here: Path) -> None:
    assert main(FIT) == 0
    for options in (["--trainer.limit_val_batches=1"], ["--trainer.num_sanity_val_steps=2"], ["--trainer.max_steps=1"]):
        assert main((*FIT, *options)) == 0
    found = [json.loads(Path(f"lightning_logs/probe/version_{v}/metrics.json").read_text()) for v in range(4)]
    assert all(other["results"] == found[0]["results"] for other in found)


def test_a_seed_that_a_generator_cannot_hold_is_refused() -> None:
    for seed in (-1, 2**32, 10**30):
        with pytest.raises(ProbeError, match="expected 0 to 4294967295"):
            SplitRows({}, [], seed=seed)
        with pytest.raises(ProbeError, match="expected 0 to 4294967295"):
            Sampling(seed=seed)


@pytest.mark.parametrize(
    ("option", "says"),
    [
        ("--seed_everything=-1", "--seed_everything: expected Seed"),
        ("--seed_everything=99999999999", "--seed_everything: expected Seed"),
        ("--trainer.check_val_every_n_epoch=0", "--trainer.check_val_every_n_epoch 0: expected"),
        ("--trainer.check_val_every_n_epoch=-1", "--trainer.check_val_every_n_epoch -1: expected"),
        ("--trainer.accumulate_grad_batches=2", "trainer: Automatic gradient accumulation is not supported"),
        ("--trainer.gradient_clip_val=0.5", "trainer: Automatic gradient clipping is not supported"),
        (
            "--trainer.callbacks={class_path: EarlyStopping, init_args: {monitor: x}}",
            "trainer: Early stopping conditioned",
        ),
        (
            "--trainer.callbacks={class_path: ModelCheckpoint, init_args: {monitor: x}}",
            "could not find the monitored key",
        ),
    ],
)
def test_what_lightning_cannot_do_as_asked_is_one_sentence_wherever_it_says_so(
    fitted: tuple[Path, dict[str, str]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    option: str, says: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(fitted[0])
    assert main(["fit", "--config=fit.yaml", "--trainer.enable_progress_bar=false", option]) == 2
    assert says in capsys.readouterr().err.rpartition("error: ")[2]
