"""Real faults: processes that are killed, files that are damaged. Run with: python -m pytest -m faults"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import yaml

pytestmark = pytest.mark.faults
SIDES = {"creative": "uncreative", "response_creative": "response_uncreative"}
SIDES |= {other: one for one, other in SIDES.items()}
ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished, undisturbed run and its cache: what a disturbed one must equal. Only one test may read the LM anew."""
    folder = tmp_path_factory.mktemp("faults")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name in ("data", "configs"):
            Path(name).symlink_to(ROOT / name)
        finish(start("whole"))
    return folder


@pytest.fixture
def here(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder whose `run/cache` remembers everything."""
    monkeypatch.chdir(tmp_path)
    for name in ("data", "configs", "whole"):
        Path(name).symlink_to(whole / name)
    shutil.copytree("whole/cache", "run/cache")
    return tmp_path


def start(folder: str, *argv: str) -> subprocess.Popen[bytes]:
    """Starts a fit of the organism in its own process; everything it leaves is named by `folder`."""
    command = [sys.executable, "-m", "probe", "fit", "--config", "configs/organism.yaml", "--steering.n_prompts=0"]
    command += [f"--model.init_args.cache_dir={folder}/cache", f"--trainer.logger.init_args.save_dir={folder}"]
    # A shell's background jobs ignore SIGINT and hand that down: a child has to be told that it may be interrupted.
    heed = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    return subprocess.Popen([*command, *argv], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, preexec_fn=heed)


def finish(process: subprocess.Popen[bytes]) -> None:
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err.decode()


def metrics(folder: str, version: int = 0) -> dict:
    return json.loads(Path(folder, f"probe/version_{version}/metrics.json").read_text())


def wait_for(condition, process: subprocess.Popen[bytes]) -> None:
    while not condition():
        assert process.poll() is None, "the run ended before it could be killed"
        time.sleep(0.02)


def test_a_fit_killed_while_reading_continues_at_the_first_missing_shard_to_the_same_numbers(here: Path) -> None:
    whole = metrics("whole")
    killed = start("killed")
    wait_for(lambda: len(list(Path("killed/cache").glob("*.json"))) >= 3, killed)
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    committed = [key for path in Path("killed/cache").glob("*.json") for key in json.loads(path.read_text())["keys"]]
    finish(start("killed"))
    again = metrics("killed", version=max(int(p.name[8:]) for p in Path("killed/probe").iterdir()))
    assert again["results"] == whole["results"]
    assert again["reads"]["texts"] <= whole["reads"]["texts"] - len(committed)
    assert 0 < again["reads"]["tokens"] < whole["reads"]["tokens"]


def test_a_flipped_byte_in_a_shard_is_noticed_named_and_read_again(here: Path) -> None:
    shard = max(Path("run/cache").glob("*.safetensors"), key=lambda path: path.stat().st_size)
    data = bytearray(shard.read_bytes())
    data[-1000] ^= 1
    shard.write_bytes(data)
    process = start("run")
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0
    assert shard.name in err.decode()
    assert metrics("run")["results"] == metrics("whole")["results"]
    assert 0 < metrics("run")["reads"]["texts"] < metrics("whole")["reads"]["texts"]


def test_a_probe_killed_while_training_resumes_to_the_same_numbers(here: Path) -> None:
    probe = ("--model", "LinearProbe", "--model.init_args.iterations=4", "--trainer.max_epochs=8")
    finish(start("run", *probe))
    killed = start("run", *probe)
    checkpoint = Path("run/probe/version_1/checkpoints/last.ckpt")
    wait_for(checkpoint.exists, killed)
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    finish(start("run", *probe, "--ckpt_path", str(checkpoint)))
    assert metrics("run", 2)["results"] == metrics("run", 0)["results"]


def test_after_a_kill_before_the_first_checkpoint_last_does_not_take_that_of_other_data(here: Path) -> None:
    finish(start("run"))
    turned = []
    for line in Path("data/storyteller/pairs.jsonl").read_text().splitlines():
        pair = json.loads(line)
        turned.append(json.dumps(pair | {one: pair[other] for one, other in SIDES.items()}) + "\n")
    Path("swapped.jsonl").write_text("".join(turned))
    killed = start("run", "--data.init_args.pairs=swapped.jsonl")
    wait_for(lambda: Path("run/probe/version_1").exists(), killed)
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    assert not list(Path("run/probe/version_1").rglob("*.ckpt"))
    again = start("run", "--data.init_args.pairs=swapped.jsonl", "--ckpt_path=last")
    _, err = again.communicate(timeout=300)
    assert again.returncode == 2
    assert "another data_fingerprint (found" in err.decode()
    finish(start("run", "--data.init_args.pairs=swapped.jsonl", "--resume"))
    version = max(int(path.name[8:]) for path in Path("run/probe").iterdir())
    assert metrics("run", version)["results"] != metrics("whole")["results"]


def test_a_fit_killed_in_its_test_reports_all_when_the_same_command_resumes(here: Path) -> None:
    command = ("run", "--steering.n_prompts=1", "--steering.max_new_tokens=4", "--resume")
    killed = start(*command)
    wait_for(lambda: list(Path("run").rglob("last.ckpt")), killed)
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    assert not Path("run/probe/version_0/metrics.json").exists()
    finish(start(*command))
    assert metrics("run", 1)["results"] == metrics("whole")["results"]
    assert metrics("run", 1)["steering"]["epoch"] == 0


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_fit_says_so_by_its_exit_code(here: Path, sent: signal.Signals, code: int) -> None:
    process = start("run", "--model", "LinearProbe", "--trainer.max_epochs=100000")
    wait_for(Path("run/probe/version_0/checkpoints/last.ckpt").exists, process)
    process.send_signal(sent)
    process.communicate(timeout=120)
    assert process.returncode == code


def test_the_main_job_needs_no_network(here: Path) -> None:
    # A process without any network interface but a dead loopback.
    if subprocess.run(["unshare", "-rn", "true"], capture_output=True).returncode:
        pytest.skip("this machine lets no process give up its network")
    command = ["unshare", "-rn", sys.executable, "-m", "probe", "fit", "--config", "configs/organism.yaml"]
    subprocess.run([*command, "--model.init_args.cache_dir=run/cache"], check=True, capture_output=True)
    run = Path("lightning_logs/probe/version_0")
    assert yaml.safe_load((run / "config.yaml").read_text())["lm"]["model"] == "data/storyteller/lm0"


def test_two_processes_give_the_numbers_of_one(here: Path) -> None:
    finish(
        start(
            "run",
            "--steering.n_prompts=2",
            "--steering.max_new_tokens=8",
            "--trainer.devices=2",
            "--trainer.strategy=ddp",
        )
    )
    ours = [(r["metric"], r["column"], r["value"]) for r in metrics("run")["results"]["test"]]
    one = [(r["metric"], r["column"], r["value"]) for r in metrics("whole")["results"]["test"]]
    assert [row[:2] for row in ours] == [row[:2] for row in one]
    assert [row[2] for row in ours] == pytest.approx([row[2] for row in one], abs=1e-3)
    assert metrics("run")["chosen"] == metrics("whole")["chosen"]


def test_a_killed_comparison_does_no_finished_fit_twice(
    tmp_path: Path,
    own_cache: Path,
    tiny_lm_folder: Path,
    small_sets: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    scorers = "{mean difference: {scorer: MeanDifference}, LoRA: {scorer: LoRAProbe, batch_size: 4}, length: {scorer: Length}}"
    files = [f"--data.{name}={path}" for name, path in small_sets.items() if name != "test_preferences"]
    lms = f"[{{model: {tiny_lm_folder}, device: cpu}}]"
    command = [
        sys.executable,
        "-m",
        "probe",
        "compare",
        "--folds=2",
        "--resamples=20",
        "--lms",
        lms,
        "--scorers",
        scorers,
        *files,
    ]
    killed = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for(lambda: len(list((own_cache / "fits").glob("*.safetensors"))) >= 3, killed)
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    finished = len(list((own_cache / "fits").glob("*.safetensors")))
    again = subprocess.run(command, capture_output=True, text=True, check=True)
    n_fits = 3 * 2 + 2 + 2  # two halves, and the folds of the prompts, for the one that has a direction
    assert 3 <= finished < n_fits
    assert f"{n_fits} fits, {finished} of them finished before" in again.stdout
