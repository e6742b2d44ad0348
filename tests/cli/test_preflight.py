"""Preflight: a run that cannot work is refused before the slow imports, by what the command line would really use."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from probe.cli.preflight import check
from probe.errors import ProbeError

PAIR = {"creative": "a", "uncreative": "b", "group": "g"}
STORY = {"text": "t", "rating": 1, "group": "g"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with good data, bad data and a config that names the good."""
    (tmp_path / "pairs.jsonl").write_text(json.dumps(PAIR) + "\n")
    (tmp_path / "stories.jsonl").write_text(json.dumps(STORY) + "\n")
    (tmp_path / "bad.jsonl").write_text(json.dumps(PAIR | STORY) + "\n{}\n")
    config(tmp_path, "good.yaml", "pairs.jsonl")
    return tmp_path


def config(folder: Path, name: str, pairs: str, **sections: Any) -> str:
    data = {"class_path": "probe.data.ContrastData", "init_args": {"pairs": str(folder / pairs), "batch_size": 4}}
    (folder / name).write_text(yaml.safe_dump({"data": data, **sections}))
    return str(folder / name)


def refused(match: str, *argv: object) -> None:
    with pytest.raises(ProbeError, match=match) as refusal:
        check(["fit", *map(str, argv)])
    assert "\n" not in str(refusal.value)


def test_a_good_config_and_no_config_at_all_pass(folder: Path) -> None:
    check(
        ["fit", "--config", str(folder / "good.yaml"), "--data.init_args.test_stories", str(folder / "stories.jsonl")]
    )
    check(["fit", f"--config={folder / 'good.yaml'}", "--trainer.max_epochs", "2", "--some.misspelt=1"])
    check(["fit"])


@pytest.mark.parametrize("option", ["--config", "-c", "--config="])
def test_a_missing_config_is_refused_however_it_is_named(folder: Path, option: str) -> None:
    path = str(folder / "nowhere.yaml")
    refused("--config .*nowhere.yaml: cannot be read", *([option + path] if option.endswith("=") else [option, path]))


def test_an_option_without_its_value_is_refused() -> None:
    refused("--config", "--config")


@pytest.mark.parametrize("text", ["data: [1, 2", "a: b: c", "\tdata: 1", "x: 'open", "a: \x00"])
def test_malformed_yaml_is_refused_on_one_line(folder: Path, text: str) -> None:
    (folder / "bad.yaml").write_text(text)
    refused("bad.yaml: expected YAML", "--config", folder / "bad.yaml")


def test_a_config_that_is_not_utf8_is_refused(folder: Path) -> None:
    (folder / "bad.yaml").write_bytes(b"data: \xff\xfe\xfa")
    refused("bad.yaml: expected YAML", "--config", folder / "bad.yaml")


def test_a_value_that_yaml_itself_cannot_build_is_refused(folder: Path) -> None:
    (folder / "bad.yaml").write_text("seed_everything: 2024-13-45\n")
    refused("bad.yaml: expected YAML", "--config", folder / "bad.yaml")


@pytest.mark.parametrize("text", ["- a\n- b\n", "", "just words", "42"])
def test_a_config_without_sections_is_refused(folder: Path, text: str) -> None:
    (folder / "list.yaml").write_text(text)
    refused("list.yaml: expected sections", "--config", folder / "list.yaml")


@pytest.mark.parametrize("field", ["pairs", "validation_stories", "test_stories"])
def test_a_missing_file_and_a_bad_line_are_refused_for_every_data_file(folder: Path, field: str) -> None:
    good = ("--config", folder / "good.yaml")
    refused("nowhere.jsonl: no such file", *good, f"--data.init_args.{field}", folder / "nowhere.jsonl")
    refused(r"bad.jsonl:2: the field", *good, f"--data.init_args.{field}={folder / 'bad.jsonl'}")
    refused(r"bad.jsonl:2: the field", *good, f"--data.{field}", folder / "bad.jsonl")


def test_a_bad_data_file_named_in_the_config_is_refused(folder: Path) -> None:
    refused("bad.jsonl:2", "--config", config(folder, "bad.yaml", "bad.jsonl"))
    refused("nowhere.jsonl: no such file", "--config", config(folder, "bad.yaml", "nowhere.jsonl"))


def test_the_command_line_wins_over_the_config(folder: Path) -> None:
    bad = config(folder, "bad.yaml", "nowhere.jsonl")
    check(["fit", "--config", bad, "--data.init_args.pairs", str(folder / "pairs.jsonl")])
    check(["fit", "--config", bad, f"--data.pairs={folder / 'pairs.jsonl'}"])


def test_a_later_config_wins_over_an_earlier_one(folder: Path) -> None:
    good, bad = str(folder / "good.yaml"), config(folder, "bad.yaml", "nowhere.jsonl")
    check(["fit", "--config", bad, "--config", good])
    refused("nowhere.jsonl", "--config", good, "--config", bad)


def test_a_later_config_wins_over_an_earlier_option_as_in_the_parser(folder: Path) -> None:
    good, bad = str(folder / "good.yaml"), config(folder, "bad.yaml", "nowhere.jsonl")
    check(["fit", "--data.init_args.pairs", str(folder / "nowhere.jsonl"), "--config", good])
    refused("nowhere.jsonl", "--data.init_args.pairs", folder / "pairs.jsonl", "--config", bad)


def test_a_file_set_to_null_is_not_looked_for(folder: Path) -> None:
    check(["fit", "--config", str(folder / "good.yaml"), "--data.init_args.test_stories=null"])


def test_a_local_model_folder_needs_its_config(folder: Path) -> None:
    good = ("--config", folder / "good.yaml")
    refused("expected a folder with config.json", *good, "--lm.model", folder)
    refused("expected a folder with config.json", *good, "--lm.model=data/storyteller/nowhere")
    refused("config.json", "--config", config(folder, "lm.yaml", "pairs.jsonl", lm={"model": "./nowhere"}))
    (folder / "config.json").touch()
    check(["fit", "--lm.model", str(folder)])


@pytest.mark.parametrize("name", ["gpt2", "HuggingFaceTB/SmolLM2-135M-Instruct"])
def test_a_hub_name_is_left_to_the_hub(name: str) -> None:
    check(["fit", "--lm.model", name])
