"""Every config that ships is run, on the tiny model where it asks for one that is not here."""

import json
import re
from pathlib import Path

import pytest
import yaml
from tiny import build_model, build_tokenizer

from probe.cli import main
from probe.data.rows import TextPair, read_rows
from probe.directions.direction import Direction
from probe.lm import hooks

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("config", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda path: path.name)
def test_the_config_runs(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_lm_folder: Path, small_sets: dict[str, str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data/creativity").mkdir(parents=True)
    for path in (ROOT / "data").iterdir():
        if path.name != "creativity":
            (tmp_path / "data" / path.name).symlink_to(path)
    for path in (ROOT / "data/creativity").glob("*.jsonl"):  # whole topics, a few of them
        (tmp_path / "data/creativity" / path.name).write_text("".join(path.open().readlines()[:60]))
    small_sets = dict(small_sets)  # other tests have it, too
    small_sets["test_preferences"] = str(tmp_path / "compared.jsonl")
    better = {"text_a": "The lamp stood.", "text_b": "The lamp swam.", "preferred": "b", "group": "lamps"}
    Path(small_sets["test_preferences"]).write_text(json.dumps(better) + "\n")
    stories = [path for name, path in small_sets.items() if name.endswith("_stories")]
    small_sets["texts"] = str(tmp_path / "rated.jsonl")
    Path(small_sets["texts"]).write_text("".join(Path(path).read_text() for path in stories))
    if "\nscorers:" in config.read_text():
        small = [f"--data.{name}={path}" for name, path in small_sets.items() if f"{name}:" in config.read_text()]
        few = tmp_path / "few.yaml"
        few.write_text(re.sub(r"examples: \d+", "examples: 6", config.read_text()))  # there are no hundreds here
        lms = ["--lms", f"[{{model: {tiny_lm_folder}, device: cpu}}]"]
        assert main(["compare", "--config", str(few), *lms, *small, "--folds=2", "--resamples=20"]) == 0
        assert list(tmp_path.glob("lightning_logs/compare/version_0/compare.json"))
        return
    if "\nbudget:" in config.read_text():
        files = {k: v for k, v in small_sets.items() if f"{k}:" in config.read_text()}
        fit = [
            "fit",
            f"--config={ROOT / 'configs/organism.yaml'}",
            "--lm.model",
            str(tiny_lm_folder),
            "--steering.n_prompts=0",
        ]
        assert main([*fit, *(f"--data.init_args.{k}={v}" for k, v in files.items())]) == 0
        quick = ["--n_prompts=2", "--n_test_prompts=3", "--n_random=1", "--steering.max_new_tokens=4"]
        assert main(["sweep", "--config", str(config), *quick, *(f"--data.{k}={v}" for k, v in files.items())]) == 0
        assert list(tmp_path.glob("lightning_logs/sweep/version_0/sweep.json"))
        return
    if config.name == "stories.yaml":
        files = {k: v for k, v in small_sets.items() if f"{k}:" in config.read_text()}
        fit = ["fit", f"--config={ROOT / 'configs/organism.yaml'}", "--lm.model", str(tiny_lm_folder)]
        assert main([*fit, "--steering.n_prompts=0", *(f"--data.init_args.{k}={v}" for k, v in files.items())]) == 0
        quick = ["--n_prompts=3", "--steering.max_new_tokens=4", *(f"--data.{k}={v}" for k, v in files.items())]
        assert main(["stories", "--config", str(config), *quick]) == 0
        assert list(tmp_path.glob("lightning_logs/stories/version_0/stories.json"))
        return
    if config.name == "paper_llama3_8b.yaml":
        return  # below
    small = [f"--data.init_args.{name}={path}" for name, path in small_sets.items() if f"{name}:" in config.read_text()]
    quick = ["--lm.model", str(tiny_lm_folder), "--steering.max_new_tokens=4", "--trainer.enable_progress_bar=false"]
    epochs = min(2, yaml.safe_load(config.read_text())["trainer"]["max_epochs"])
    assert main(["fit", "--config", str(config), *quick, f"--trainer.max_epochs={epochs}", *small]) == 0
    assert list(tmp_path.glob("lightning_logs/*/version_0/metrics.json"))


def test_the_papers_setting_is_layer_8_strength_3_and_500_pairs_on_a_llama_in_place_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").symlink_to(ROOT / "data")
    build_model("llama", num_hidden_layers=10).save_pretrained("llama")
    build_tokenizer().save_pretrained("llama")
    config = str(ROOT / "configs/paper_llama3_8b.yaml")
    written = yaml.safe_load(Path(config).read_text())
    assert written["lm"]["model"] == "meta-llama/Meta-Llama-3-8B-Instruct"
    assert len(read_rows(written["data"]["init_args"]["pairs"], TextPair)) == 500
    stand_in = ["--lm.model=./llama", "--lm.dtype=float32", "--lm.device=cpu"]
    quick = ["--steering.max_new_tokens=4", "--trainer.enable_progress_bar=false", "--steering.n_prompts=2"]
    assert main(["fit", "--config", config, *stand_in, *quick]) == 0
    direction = Direction.load(Path("lightning_logs/probe/version_0/direction"))
    assert (direction.layers, direction.chosen) == ((8,), 8)
    assert (direction.provenance["span"], direction.provenance["pooling"]) == ("prompt", "last")
    deltas: list[float] = []
    real = hooks.edit

    def spy(of_block: dict, operator: object, tokens: object) -> object:
        deltas.extend(float(row.norm()) for delta in of_block.values() for row in delta)
        return real(of_block, operator, tokens)

    monkeypatch.setattr("probe.steering.arms.edit", spy)
    assert main(["stories", "--config", config, *stand_in, "--steering.max_new_tokens=4", "--n_prompts=4"]) == 0
    assert {round(length, 4) for length in deltas} == {0.0, 3.0}
    report = json.loads(Path("lightning_logs/stories/version_0/stories.json").read_text())
    assert "steered by 3 (absolute) at layer 8" in report["sets"]["steered"]
