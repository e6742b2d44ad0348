"""A config file is data: real attacks, each of which ran something or sent something away before it was mended."""

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from chat_server import Server

from probe import scorers
from probe.cli import main
from probe.cli.plugins import SCORERS
from probe.cli.preflight import read_config
from probe.options.yaml_text import MAX_CHARACTERS, TooMuch, bounded

SHELL: dict[str, Any] = {
    "class_path": "torch.distributed.elastic.multiprocessing.subprocess_handler.SubprocessHandler",
    "init_args": {
        "entrypoint": "/bin/sh",
        "args": ["-c", "echo > pwned"],
        "env": {},
        "stdout": None,
        "stderr": None,
        "local_rank_id": 0,
        "numa_options": None,
    },
}
"""A class that runs a shell command when it is made."""
LAUNCH = {"class_path": "torch.distributed.launcher.api.elastic_launch", "init_args": {"entrypoint": "/bin/sh"}}
CALLBACKS = "lightning.pytorch.callbacks"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def config(here: Path, tiny_lm_folder: Path, small_sets: dict[str, str]) -> Callable[..., str]:
    """Writes a config that works but for the sections that are given, and returns its name."""
    files = {k: v for k, v in small_sets.items() if k != "test_preferences"}

    def write(**sections: Any) -> str:
        good = {
            "lm": {"model": str(tiny_lm_folder), "device": "cpu"},
            "model": {"class_path": "MeanDifference"},
            "data": {"class_path": "ContrastData", "init_args": files},
            "steering": {"n_prompts": 0},
            "trainer": {"enable_progress_bar": False},
        }
        Path("config.yaml").write_text(yaml.safe_dump(good | sections))
        return "config.yaml"

    return write


def refused(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """The one sentence with which these arguments are refused; nothing was run."""
    code = main(argv)
    time.sleep(0.05)  # a shell that was started would need a moment
    err = capsys.readouterr().err
    assert code == 2, err
    assert "Traceback" not in err
    sentence = err[err.index("error:") :].strip()
    assert "\n" not in sentence
    assert not Path("pwned").exists()
    return sentence


def test_the_payload_of_these_attacks_does_run_when_it_is_made(here: Path) -> None:
    from torch.distributed.elastic.multiprocessing.subprocess_handler import SubprocessHandler

    SubprocessHandler(**SHELL["init_args"]).proc.wait()
    assert Path("pwned").exists()


@pytest.mark.parametrize(
    "sections",
    [
        {"trainer": {"strategy": {"class_path": "DDPStrategy", "init_args": {"ddp_comm_state": SHELL}}}},
        {
            "trainer": {
                "callbacks": [{"class_path": f"{CALLBACKS}.LambdaCallback", "init_args": {"on_fit_start": LAUNCH}}]
            }
        },
        {"trainer": {"callbacks": [{"class_path": "LambdaCallback", "init_args": {"on_fit_start": "os.system"}}]}},
        {"trainer": {"callbacks": [SHELL]}},
        {"trainer": {"callbacks": {"class_path": "subprocess.Popen", "init_args": {"args": ["touch", "pwned"]}}}},
        {"trainer": {"callbacks": [{"class_path": "EarlyStopping", "init_args": {"monitor": SHELL}}]}},
        {"trainer": {"callbacks": [{"class_path": f"{CALLBACKS}.early_stopping.torch.load"}]}},
        {"trainer": {"logger": SHELL}},
        {"trainer": {"logger": {"class_path": "WandbLogger"}}},
        {"trainer": {"logger": {"class_path": "CSVLogger", "init_args": {"save_dir": SHELL}}}},
        {"trainer": {"profiler": {"class_path": "PyTorchProfiler", "dict_kwargs": {"on_trace_ready": SHELL}}}},
        {"trainer": {"plugins": [SHELL]}},
        {"trainer": {"default_root_dir": SHELL}},
        {
            "trainer": {
                "logger": {"class_path": "TensorBoardLogger", "init_args": {"save_dir": "sftp://elsewhere/runs"}}
            }
        },
        {"trainer": {"model_registry": "theirs/models"}},
        {"data": SHELL},
        {"data": {"class_path": "ContrastData", "init_args": {"pairs": SHELL}}},
        {"model": SHELL},
        {"model": {"class_path": "LinearProbe", "init_args": {"C": SHELL}}},
        {"model": {"class_path": "MeanDifference", "dict_kwargs": {"cache_dir": SHELL}}},
        {"model": {"class_path": "probe.MeanDifference.load_from_checkpoint"}},
        {"model": {"class_path": "probe.scorers.lora.shutil.rmtree", "init_args": {"path": "."}}},
        {"model": {"class_path": "probe.commands.compare.build"}},
        {"lm": {"model": SHELL}},
        {"lm": SHELL},
        {"lm": "lm.yaml"},
        {"steering": {"operator": "os.system"}},
        {"steering": {"operator": SHELL}},
        {"steering": {"witness": ["surface", "os.system"], "n_prompts": 1}},
        {"steering": {"witness": [SHELL]}},
        {"steering": {"endpoint": SHELL}},
        {"steering": {"endpoint": {"model": "m", "url": "https://elsewhere.example/v1"}}},
        {"steering": {"endpoint": {"model": "m", "key_variable": "OTHER_API_KEY"}}},
        {"weights_only": False},
        {"fit": {"lm": {"trust_remote_code": True}}},
    ],
    ids=lambda sections: json.dumps(sections)[:90],
)
def test_no_config_of_fit_runs_anything(
    config: Callable[..., str], sections: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    Path("lm.yaml").write_text("trust_remote_code: true\n")
    refused(capsys, "fit", "--config", config(**sections))
    assert not Path("lightning_logs").exists()


@pytest.mark.parametrize(
    "contestant",
    [
        {"scorer": "MeanDifference", "args": {"anything": SHELL}},
        {"scorer": "MeanDifference", "args": {"pooling": SHELL}},
        {"scorer": "MeanDifference", "args": {"cache_dir": [SHELL]}},
        {"scorer": "MeanDifference", "grid": {"pooling": [SHELL]}},
        {"scorer": "MeanDifference", "args": SHELL},
        {"scorer": SHELL["class_path"], "args": SHELL["init_args"]},
        {"scorer": "os.system", "args": {"command": "echo > pwned"}},
        {"scorer": "MeanDifference", "args": {"lm": {"trust_remote_code": True}}},
        {"scorer": "MeanDifference", "args": {"lm.trust_remote_code": True}},
        {"scorer": "MeanDifference", "grid": {"lm": [{"trust_remote_code": True}]}},
        {"scorer": "LinearProbe", "args": {"C": -1.0}},
        {"scorer": "LinearProbe", "grid": {"C": [1.0, float("nan")]}},
        {"scorer": "LinearProbe", "grid": {"C": []}},
    ],
    ids=lambda contestant: json.dumps(contestant)[:90],
)
def test_no_contestant_of_compare_runs_anything(
    config: Callable[..., str], contestant: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    refused(capsys, "compare", "--config", config(scorers={"mean difference": contestant}))


@pytest.mark.parametrize("lm", [SHELL, {"model": SHELL}, {"model": "here", "trust_remote_code": True}])
def test_no_lm_of_compare_runs_anything(
    config: Callable[..., str], lm: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    named = config(lms=[lm], scorers={"mean difference": {"scorer": "MeanDifference"}})
    refused(capsys, "compare", "--config", named)


def test_every_scorer_and_nothing_else_of_ours_is_admitted() -> None:
    abstract = {"Scorer", "FrozenScorer", "LoRAScorer", "Compares", "HasDirection", "HasShift"}
    assert set(SCORERS) == set(scorers.__all__) - abstract


def test_no_config_of_another_verb_brings_in_another(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("more.yaml").write_text("data: {pairs: theirs.jsonl}\n")
    Path("audit.yaml").write_text("config: more.yaml\n")
    assert "the section `config`" in refused(capsys, "audit", "--config", "audit.yaml")


@pytest.mark.parametrize("key", ["__default_config__", "config", "$schema"])
def test_no_config_brings_in_another(config: Callable[..., str], key: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("more.yaml").write_text("lm: {trust_remote_code: true, strict: true}\n")
    assert main(["fit", "--config", config(**{key: "more.yaml"}), "--print_config"]) == 0
    out = capsys.readouterr().out
    assert "trust_remote_code: false" in out
    assert "strict: false" in out


def test_interpolation_is_text(
    config: Callable[..., str], capsys: pytest.CaptureFixture[str], tiny_lm_folder: Path
) -> None:
    lm = {"model": str(tiny_lm_folder), "system": "${oc.env:HOME} ${HOME}"}
    assert main(["fit", "--config", config(lm=lm), "--print_config"]) == 0
    assert "system: ${oc.env:HOME} ${HOME}" in capsys.readouterr().out


# -- unpickling ------------------------------------------------------------------------------------------------------


class Bomb:
    def __reduce__(self) -> Any:
        return os.system, ("echo > pwned",)


@pytest.mark.parametrize(
    "option",
    [[], ["--weights_only=false"], ["--weights_only", "false"], ["--no_weights_only"], ["--weights_only=null"]],
)
def test_a_checkpoint_is_never_unpickled(
    config: Callable[..., str], option: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({"state_dict": {}, "hyper_parameters": {"_class_path": "os.system", "bomb": Bomb()}}, "bomb.ckpt")
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    argv = ["fit", "--config", config(), "--ckpt_path", "bomb.ckpt", *option]
    assert ("weights_only" if option else "Weights only load failed") in refused(capsys, *argv)
    assert not Path("pwned").exists()


# -- code of others, and what is sent away ---------------------------------------------------------------------------


@pytest.fixture
def its_own_code(here: Path, tiny_lm_folder: Path) -> str:
    """A model folder that brings code, which says that it was run."""
    folder = here / "theirs"
    shutil.copytree(tiny_lm_folder, folder)
    described = json.loads((folder / "config.json").read_text())
    described |= {
        "model_type": "theirs",
        "auto_map": {"AutoConfig": "theirs.Config", "AutoModelForCausalLM": "theirs.Model"},
    }
    (folder / "config.json").write_text(json.dumps(described))
    (folder / "theirs.py").write_text("open('pwned', 'w')\nraise OSError('it ran')\n")
    return str(folder)


def test_only_the_command_line_lets_a_model_run_its_own_code(
    config: Callable[..., str], its_own_code: str, capsys: pytest.CaptureFixture[str]
) -> None:
    trusting = config(lm={"model": its_own_code, "device": "cpu", "trust_remote_code": True})
    assert "on the command line" in refused(capsys, "fit", "--config", trusting)
    refused(capsys, "fit", "--lm.trust_remote_code", "false", "--config", trusting)
    careful = config(lm={"model": its_own_code, "device": "cpu"})
    refused(capsys, "fit", "--config", careful)
    assert main(["fit", "--config", careful, "--lm.trust_remote_code", "true"]) == 2
    assert Path("pwned").exists()


PAIRS = ("pairs", "--input", "prompts.jsonl", "--output", "pairs.jsonl", "--endpoint.retries=0", "--temperature=0")


def asking(server: Server, **endpoint: str) -> None:
    Path("prompts.jsonl").write_text('{"creative": "a tale", "group": "g"}\n')
    where = {"model": "judge", "url": server.url}
    Path("endpoint.yaml").write_text(yaml.safe_dump({"endpoint": where | endpoint}))


@pytest.mark.parametrize("name", ["SECRET", "MY_API_KEY", "HF_TOKEN"])
def test_no_config_chooses_the_variable_whose_value_is_sent(
    here: Path, server: Server, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(name, "secret")
    asking(server, key_variable=name)
    assert "key_variable" in refused(capsys, *PAIRS, "--config", "endpoint.yaml")
    refused(capsys, *PAIRS, "--endpoint.key_variable=OTHER_API_KEY", "--config", "endpoint.yaml")
    assert not server.asked


def test_the_variable_that_is_typed_must_be_one_of_a_key(
    here: Path, server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    asking(server)
    for name in ("HOME", "MY_API_KEY_2", "PATH", ""):
        refused(capsys, *PAIRS, "--config", "endpoint.yaml", f"--endpoint.key_variable={name}")
    assert not server.asked


@pytest.mark.parametrize(
    "url",
    [
        "https://elsewhere.example/v1",
        "http://localhost:80@elsewhere.example/v1",
        "ftp://x",
        "https://elsewhere.example/v1 ",
        " https://elsewhere.example",
        "http://[::1",
        "simplecache::http://x/a b",
    ],
)
def test_no_config_sends_texts_and_keys_to_another_machine(
    here: Path, server: Server, url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    asking(server, url=url)
    assert "url" in refused(capsys, *PAIRS, "--config", "endpoint.yaml")


# -- too much --------------------------------------------------------------------------------------------------------

LEVELS = [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 10)]
BOMB = "\n".join(["a0: &a0 [x]", *LEVELS])
TOO_MUCH = {
    "aliases": BOMB,
    "aliases in a text": f"trainer: {{max_epochs: '{{{', '.join(['a0: &a0 [x]', *LEVELS])}}}'}}",
    "merges": BOMB.replace("[x]", "{x: 1}").replace("[*", "{<<: [*").replace("]", "]}", 9),
    "flow": "a: " + "[" * 50_000,
    "flow in a text": "trainer: {max_epochs: '" + "[" * 50_000 + "'}",
    "mappings": "{a: " * 10_000,
    "blocks": "- " * 40_000,
    "itself": "a: &a [*a]",
    "values": f"a: [{', '.join(['1'] * 30_000)}]",
    "chain": "\n".join(["a0: &a0 [x]", *(f"a{i}: &a{i} [*a{i - 1}]" for i in range(1, 3000))]),
    "size": "a: " + "x" * MAX_CHARACTERS,
    "texts in texts": "a: |\n" + "".join(f"{' ' * i}|\n" for i in range(1, 440)) + " " * 440 + "x\n",
}


@pytest.mark.parametrize("text", TOO_MUCH.values(), ids=TOO_MUCH)
@pytest.mark.parametrize("verb", ["fit", "compare"])
def test_a_config_that_is_too_much_is_refused_before_anything_is_built_of_it(
    here: Path, verb: str, text: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("bomb.yaml").write_text(text)
    monkeypatch.setattr(yaml, "safe_load", lambda text: pytest.fail("it was built"))
    if not text.endswith("'}"):
        refused(capsys, verb, "--config", "bomb.yaml")


def test_a_text_that_would_be_too_much_as_yaml_is_refused_too() -> None:
    with pytest.raises(TooMuch):
        bounded(TOO_MUCH["aliases in a text"])


def test_what_people_write_is_not_too_much(here: Path) -> None:
    for path in sorted((Path(__file__).parents[2] / "configs").glob("*.yaml")):
        assert read_config(str(path))
    shared = "lm: &lm {model: x}\nlms: [*lm, *lm]\nask: 'a: b & c * d [e'\n" + "".join(
        f"k{i}: {i}\n" for i in range(999)
    )
    Path("shared.yaml").write_text(shared)
    assert read_config("shared.yaml")["lms"] == [{"model": "x"}] * 2


@pytest.mark.parametrize("name", ["pairs.jsonl", "direction/direction.json"])
def test_json_that_nests_too_deep_is_damaged_data(
    config: Callable[..., str], name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    deep = '{"a":' * 100_000 + "1" + "}" * 100_000
    Path("direction").mkdir()
    Path(name).write_text(deep + "\n")
    if name == "pairs.jsonl":
        assert "nested too deep" in refused(capsys, "audit", "--data.pairs", name)
    else:
        from safetensors.torch import save_file

        save_file({"vectors": torch.eye(3)}, "direction/direction.safetensors")
        assert "nested too deep" in refused(capsys, "generate", "A prompt.", "--direction", "direction")
