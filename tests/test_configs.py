"""Every config that ships is run, on the tiny model where it asks for one that is not here."""

import json
from pathlib import Path

import pytest

from probe.cli import main

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("config", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda path: path.name)
def test_the_config_runs(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_lm_folder: Path, small_sets: dict[str, str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").symlink_to(ROOT / "data")
    small_sets["test_preferences"] = str(tmp_path / "compared.jsonl")
    better = {"text_a": "The lamp stood.", "text_b": "The lamp swam.", "preferred": "b", "group": "lamps"}
    Path(small_sets["test_preferences"]).write_text(json.dumps(better) + "\n")
    if "\nscorers:" in config.read_text():
        small = [f"--data.{name}={path}" for name, path in small_sets.items() if f"{name}:" in config.read_text()]
        lms = ["--lms", f"[{{model: {tiny_lm_folder}, device: cpu}}]"]
        assert main(["compare", "--config", str(config), *lms, *small, "--folds=2", "--resamples=20"]) == 0
        assert list(tmp_path.glob("lightning_logs/compare/version_0/compare.json"))
        return
    if "\nbudget:" in config.read_text():
        files = {k: v for k, v in small_sets.items() if f"{k}:" in config.read_text()}
        fit = [
            "fit",
            f"--config={ROOT / 'configs/quickstart.yaml'}",
            "--lm.model",
            str(tiny_lm_folder),
            "--steering.n_prompts=0",
        ]
        assert main([*fit, *(f"--data.init_args.{k}={v}" for k, v in files.items())]) == 0
        quick = ["--n_prompts=2", "--n_test_prompts=3", "--n_random=1", "--max_new_tokens=4"]
        assert main(["sweep", "--config", str(config), *quick, *(f"--data.{k}={v}" for k, v in files.items())]) == 0
        assert list(tmp_path.glob("lightning_logs/sweep/version_0/sweep.json"))
        return
    small = [f"--data.init_args.{name}={path}" for name, path in small_sets.items() if f"{name}:" in config.read_text()]
    quick = ["--lm.model", str(tiny_lm_folder), "--steering.max_new_tokens=4", "--trainer.enable_progress_bar=false"]
    assert main(["fit", "--config", str(config), *quick, *small]) == 0
    assert list(tmp_path.glob("lightning_logs/*/version_0/metrics.json"))
