"""A checkpoint is of one run: another one's, or a damaged one, is refused in a sentence before anything is read or learned."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from probe.cli import main
from probe.errors import ProbeError
from probe.scorers.checkpoints import NothingToResumeError, differences, newest_checkpoint, read_checkpoint

FIT = ("fit", "--config", "fit.yaml")
FIRST = "lightning_logs/probe/version_0/checkpoints/last.ckpt"


@pytest.fixture(scope="module")
def run(tiny_lm_folder: Path, small_sets: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which a probe was fitted for two epochs; its pairs, and the same with their sides swapped."""
    folder = tmp_path_factory.mktemp("run")
    swapped = {"creative": "uncreative", "uncreative": "creative"}
    swapped |= {f"response_{one}": f"response_{other}" for one, other in swapped.items()}
    pairs = [json.loads(line) for line in Path(small_sets["pairs"]).read_text().splitlines()]
    turned = [{**pair, **{one: pair[other] for one, other in swapped.items()}} for pair in pairs]
    (folder / "swapped.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in turned))
    config = {
        "lm": {"model": str(tiny_lm_folder), "device": "cpu"},
        "model": {"class_path": "LinearProbe", "init_args": {"C": 1.0, "iterations": 2}},
        "data": {"class_path": "ContrastData", "init_args": dict(small_sets)},
        "steering": {"n_prompts": 1, "n_random": 1, "max_new_tokens": 4},
        "trainer": {"enable_progress_bar": False, "max_epochs": 2},
    }
    (folder / "fit.yaml").write_text(yaml.safe_dump(config))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(FIT) == 0
    return folder


@pytest.fixture
def here(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it to work in."""
    shutil.copytree(run, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


def refused(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    capsys.readouterr()
    assert main(argv) == 2
    return capsys.readouterr().err.rpartition("error: ")[2]


def metrics(version: int) -> dict[str, Any]:
    return json.loads(Path(f"lightning_logs/probe/version_{version}/metrics.json").read_text())


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ("--data.init_args.pairs=swapped.jsonl", "another data_fingerprint (found"),
        ("--data.init_args.validation_stories=null", "another data_fingerprint (found"),
        ("--data.init_args.seed=3", "another data_seed (found 0, the config says 3)"),
        ("--model.init_args.C=0.5", "another C (found 1.0, the config says 0.5)"),
        ("--model.init_args.pooling=last", "another pooling (found 'mean', the config says 'last')"),
        ("--model.init_args.layers=[1]", "another layers (found [0, 1, 2], the config says [1])"),
        ("--lm.system=Be brief.", "another lm_system (found None, the config says 'Be brief.')"),
        ("--lm.max_tokens=300", "another lm_max_tokens (found 1024, the config says 300)"),
        ("--lm.dtype=bfloat16", "another lm_fingerprint (found"),
        ("--model=MeanDifference", "another method (found 'LinearProbe', the config says 'MeanDifference')"),
    ],
)
def test_another_runs_checkpoint_is_refused_by_what_differs_whether_it_is_named_or_the_last(
    here: Path, capsys: pytest.CaptureFixture[str], changed: str, says: str
) -> None:
    before = Path(FIRST).read_bytes()
    for which in ("last", FIRST) if "swapped" in changed else ("last",):
        assert says in refused(capsys, *FIT, changed, "--ckpt_path", which)
    assert Path(FIRST).read_bytes() == before


def test_what_changes_nothing_that_is_learned_keeps_a_checkpoint_and_more_epochs_go_on_from_it(here: Path) -> None:
    other = ("--model.init_args.cache_dir=elsewhere", "--lm.strict=true", "--steering.n_prompts=0")
    assert (
        main((*FIT, *other, "--data.init_args.test_stories=null", "--ckpt_path", FIRST)) == 2
    )  # its groups are learned from
    assert main((*FIT, *other, "--trainer.max_epochs=3", "--ckpt_path", FIRST)) == 0
    assert main((*FIT, "--trainer.max_epochs=3", "--steering.n_prompts=0")) == 0
    *_, continued, whole = sorted(int(p.name[8:]) for p in Path("lightning_logs/probe").iterdir())
    ours, theirs, first = (metrics(version)["results"]["validation"] for version in (continued, whole, 0))
    # To float32's last digits, which Pearson's correlation alone can see.
    assert all(one == pytest.approx(other, abs=1e-5) for one, other in zip(ours, theirs, strict=True))
    assert ours != first


def test_a_checkpoint_with_more_epochs_than_asked_for_is_refused(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "has 2 epochs behind it, more than trainer.max_epochs 1" in refused(
        capsys, *FIT, "--trainer.max_epochs=1", "--ckpt_path", FIRST
    )


def test_last_passes_over_newer_checkpoints_of_other_runs_and_says_which_it_took(
    here: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert main((*FIT, "--data.init_args.pairs=swapped.jsonl", "--steering.n_prompts=0")) == 0
    assert main(("test", *FIT[1:], "--ckpt_path", "last")) == 0
    assert f"Going on from {FIRST}" in caplog.text
    assert metrics(2)["results"]["test"] == metrics(0)["results"]["test"] != metrics(1)["results"]["test"]


def test_a_run_that_was_stopped_after_its_last_epoch_ends_with_all_that_a_whole_one_reports(here: Path) -> None:
    # Its checkpoint is there before the test begins: this is what a kill in the test leaves.
    assert main((*FIT, "--ckpt_path", "last")) == 0
    assert set(metrics(1)["results"]) == {"validation", "test"}
    for part in ("results", "chosen", "steering", "provenance", "random_directions"):
        assert metrics(1)[part] == metrics(0)[part], part
    steering = [Path(f"lightning_logs/probe/version_{version}/steering.jsonl").read_text() for version in (0, 1)]
    assert steering[0] == steering[1]


def test_the_same_command_with_resume_starts_anew_where_nothing_is_of_this_run_and_else_goes_on(
    here: Path, caplog: pytest.LogCaptureFixture
) -> None:
    command = (*FIT, "--data.init_args.pairs=swapped.jsonl", "--steering.n_prompts=0", "--resume")
    assert main(command) == 0
    assert "--resume starts anew" in caplog.text
    assert "another data_fingerprint (found" in caplog.text
    assert main(command) == 0
    assert "Going on from lightning_logs/probe/version_1" in caplog.text
    assert metrics(2)["results"] == metrics(1)["results"]


@pytest.mark.filterwarnings("ignore:.*changes nothing here")
def test_adapters_go_on_to_the_numbers_of_an_uninterrupted_run_and_are_refused_where_gradients_would_differ(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lora = (
        *FIT,
        "--model=LoRAProbe",
        "--model.init_args.layer=1",
        "--data.init_args.batch_size=16",
        "--steering.n_prompts=0",
    )
    assert main((*lora, "--trainer.precision=bf16-true", "--resume")) == 0
    assert main((*lora, "--trainer.max_epochs=3", "--resume")) == 0
    assert main((*lora, "--trainer.max_epochs=3")) == 0
    assert metrics(2)["results"] == metrics(3)["results"]
    for option, says in (
        ("--model.init_args.lr=0.5", "another lr (found 0.001, the config says 0.5)"),
        ("--model.init_args.rank=4", "another rank (found 8, the config says 4)"),
        ("--data.init_args.batch_size=8", "another batch_size (found 16, the config says 8)"),
        ("--seed_everything=7", "another seed_everything (found '0', the config says '7')"),
        ("--trainer.gradient_clip_val=1.0", "another gradient_clip_val (found None, the config says 1.0)"),
    ):
        assert says in refused(capsys, *lora, "--trainer.max_epochs=3", option, "--ckpt_path=last")


def with_nan(checkpoint: dict[str, Any]) -> None:
    checkpoint["state_dict"]["weight"][0, 0] = float("nan")


def with_infinite_state(checkpoint: dict[str, Any]) -> None:
    next(iter(checkpoint["optimizer_states"][0]["state"].values()))["d"][0] = float("inf")


def narrower(checkpoint: dict[str, Any]) -> None:
    checkpoint["state_dict"]["weight"] = checkpoint["state_dict"]["weight"][:, :-1]


def without_bias(checkpoint: dict[str, Any]) -> None:
    del checkpoint["state_dict"]["bias"]


def of_words(checkpoint: dict[str, Any]) -> None:
    checkpoint["state_dict"]["bias"] = "heavy"


def of_another_layer(checkpoint: dict[str, Any]) -> None:
    checkpoint["scorer"]["chosen"] = "layer_99"


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (with_nan, "weight holds something else than finite numbers"),
        (with_infinite_state, "the training's state holds something else than finite numbers"),
        (of_words, "bias holds something else than finite numbers"),
        (narrower, "expected `weight` of shape (3, 32), found (3, 31)"),
        (without_bias, "expected `bias` of shape (3,), found"),
        (of_another_layer, "has chosen the column 'layer_99'"),
        (lambda checkpoint: checkpoint.pop("scorer"), "it lacks scorer"),
        (lambda checkpoint: checkpoint.pop("loops"), "it lacks loops"),
        (lambda checkpoint: checkpoint.update(state_dict=[1]), "its state_dict or scorer is no mapping"),
    ],
)
def test_a_checkpoint_of_wrong_numbers_or_shapes_is_refused(
    here: Path, capsys: pytest.CaptureFixture[str], damage: Callable[[dict[str, Any]], object], says: str
) -> None:
    checkpoint = torch.load(FIRST, weights_only=True)
    damage(checkpoint)
    torch.save(checkpoint, "bad.ckpt")
    assert says in refused(capsys, "test", *FIT[1:], "--ckpt_path", "bad.ckpt")


def test_files_that_are_no_checkpoints_are_refused_and_passed_over(here: Path, tmp_path: Path) -> None:
    whole = Path(FIRST).read_bytes()
    torch.save([1, 2], tmp_path / "list.pt")
    torch.save({"state_dict": Path("evil")}, tmp_path / "pickle.pt")  # a class: only a pickle could hold it
    for content in (
        b"", b"garbage", whole[:1000], whole[: len(whole) // 2], *(p.read_bytes() for p in tmp_path.glob("*.pt"))
    ):  # fmt: skip
        bad = Path("lightning_logs/probe/newer/last.ckpt")
        bad.parent.mkdir(exist_ok=True)
        bad.write_bytes(content)
        with pytest.raises(ProbeError, match="expected a whole checkpoint of `fit`") as refusal:
            read_checkpoint(bad)
        assert "\n" not in str(refusal.value)
        identity = {k: v for k, v in read_checkpoint(Path(FIRST))["scorer"].items() if k != "chosen"}
        assert newest_checkpoint(Path("lightning_logs"), lambda identity=identity: identity) == Path(FIRST)
    with pytest.raises(
        NothingToResumeError, match=r"found 2 of others: .*newer/last.ckpt: expected a whole checkpoint"
    ):
        newest_checkpoint(Path("lightning_logs"), lambda: {"method": "another"})


def test_differences_name_both_values_also_of_what_one_side_lacks() -> None:
    assert differences({"C": 1.0, "seed": 0}, {"C": 1.0, "seed": 0}) == ""
    said = differences({"C": 1.0, "old": True}, {"C": 2.0, "new": "x" * 200})
    assert said.startswith("another C (found 1.0, the config says 2.0), another new (found None, the config says 'xxx")
    assert said.endswith("another old (found True, the config says None)")
    assert len(said) < 300


@pytest.mark.parametrize(
    "damage",
    [
        lambda checkpoint: checkpoint.update(epoch="3"),
        lambda checkpoint: checkpoint.update(global_step=-1),
        lambda checkpoint: checkpoint.update(loops={}),
        lambda checkpoint: checkpoint.update(callbacks="none"),
        lambda checkpoint: checkpoint.pop("optimizer_states"),
        lambda checkpoint: checkpoint.update({"pytorch-lightning_version": "x"}),
        lambda checkpoint: checkpoint["state_dict"].update(bias=torch.ones(3) > 0),
    ],
)
def test_whatever_is_wrong_inside_of_a_checkpoint_is_said_in_one_sentence(
    here: Path, capsys: pytest.CaptureFixture[str], damage: Callable[[dict[str, Any]], object]
) -> None:
    checkpoint = torch.load(FIRST, weights_only=True)
    damage(checkpoint)
    torch.save(checkpoint, "bad.ckpt")
    assert "checkpoint" in refused(capsys, *FIT, "--ckpt_path", "bad.ckpt")
