"""What other programs are handed is what this one steers with: read back, run, and compared."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import GGUFReader
from small import fitted
from transformers import AutoModelForCausalLM, AutoTokenizer

from probe.cli import main
from probe.directions.baked import bake
from probe.directions.direction import Direction
from probe.errors import ProbeError
from probe.lm.frozen import FrozenLM
from probe.lm.hooks import edit


@pytest.fixture(scope="module")
def run(tiny_lm_folder: Path, small_sets: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which a run has found a direction."""
    return fitted(tmp_path_factory.mktemp("run"), tiny_lm_folder, small_sets, "--steering.n_prompts=0").parents[2]


def export(run: Path, *words: str) -> int:
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(run)
        return main(["export", "--strength", "2", "--strength_unit", "gap", *words])


@pytest.mark.parametrize("to", ["llama.cpp", "easysteer"])
def test_a_control_vector_holds_what_is_added_by_the_0_based_block(run: Path, tmp_path: Path, to: str) -> None:
    file = tmp_path / "vector.gguf"
    assert export(run, "--to", to, "--layer", "[1, 2]", "--output", str(file)) == 0
    direction = Direction.load(run / "lightning_logs/probe/version_0")
    read = GGUFReader(file)
    held = {tensor.name: np.array(tensor.data) for tensor in read.tensors}
    expected = direction.deltas(2, "gap", [1, 2])
    assert held.keys() == {"direction.1", "direction.2"}
    for k, vector in expected.items():
        np.testing.assert_array_equal(held[f"direction.{k}"], vector.numpy())
    assert read.fields["controlvector.model_hint"].contents() == "llama"
    assert read.fields["controlvector.layer_count"].contents() == 2
    assert read.fields["general.architecture"].contents() == "controlvector"


def test_what_a_target_cannot_express_is_refused_before_anything_is_written(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(*words: str) -> str:
        assert export(run, "--output", str(tmp_path / "out"), *words) == 2
        assert not (tmp_path / "out").exists()
        return capsys.readouterr().err

    assert "llama.cpp has no place; steer another" in refused("--to", "llama.cpp", "--layer", "0")
    assert "did you mean llama.cpp?" in refused("--to", "lama.cpp")
    assert "found `clamp` at all" in refused("--to", "hub", "--operator", "clamp")
    assert "found `plus` at prompt" in refused("--to", "hub", "--tokens", "prompt")
    (tmp_path / "there").write_text("mine")
    assert export(run, "--to", "hub", "--output", str(tmp_path / "there")) == 2
    assert (tmp_path / "there").read_text() == "mine"
    assert export(run, "--to", "llama.cpp", "--layer", "1", "--output", str(tmp_path / "a:b.gguf")) == 2


def test_the_baked_model_alone_gives_the_logits_of_the_hooked_one(run: Path, tmp_path: Path, tiny_lm: FrozenLM) -> None:
    folder = tmp_path / "baked"
    assert export(run, "--to", "baked", "--layer", "1", "--output", str(folder)) == 0
    direction = Direction.load(run / "lightning_logs/probe/version_0")
    baked, ids = AutoModelForCausalLM.from_pretrained(folder), torch.arange(3, 40)[None]
    plain = tiny_lm.model(ids).logits
    with edit({tiny_lm.blocks[k]: v for k, v in direction.deltas(2, "gap", [1]).items()}), torch.no_grad():
        hooked = tiny_lm.model(ids).logits
    torch.testing.assert_close(baked(ids).logits, hooked, atol=1e-4, rtol=0)
    assert (plain - hooked).abs().max() > 1e-2
    assert AutoTokenizer.from_pretrained(folder).get_vocab() == tiny_lm.tokenizer.get_vocab()


@pytest.mark.parametrize("architecture", ["gpt2", "gpt_neox", "granite", "llama", "opt", "starcoder2"])
def test_weights_take_a_direction_in_families_that_have_a_place_for_it(
    make_lm: Callable[..., FrozenLM], tmp_path: Path, architecture: str
) -> None:
    lm = make_lm(architecture)
    assert bake(lm, {1: torch.randn(lm.hidden_size)}, tmp_path / "baked") < 1e-3


@pytest.mark.parametrize("architecture", ["gemma2", "qwen2", "olmo2"])
def test_families_that_would_lose_it_are_refused_by_their_own_logits(
    make_lm: Callable[..., FrozenLM], tmp_path: Path, architecture: str
) -> None:
    lm = make_lm(architecture)
    with pytest.raises(ProbeError, match="--to baked: expected"):
        bake(lm, {1: torch.randn(lm.hidden_size)}, tmp_path / "baked")


def test_what_goes_to_the_hub_is_a_direction_again_and_its_card_says_what_was_measured(
    run: Path, tmp_path: Path, tiny_lm: FrozenLM
) -> None:
    folder = tmp_path / "card"
    assert export(run, "--to", "hub", "--layer", "1", "--output", str(folder)) == 0
    given = Direction.load(run / "lightning_logs/probe/version_0")
    torch.testing.assert_close(Direction.load(folder).vectors, given.vectors)
    card = (folder / "README.md").read_text()
    assert card.startswith("---\nbase_model: ")
    results = json.loads((run / "lightning_logs/probe/version_0/metrics.json").read_text())["results"]["test"]
    rho = next(r for r in results if (r["metric"], r["column"]) == ("spearman", f"layer_{given.chosen}"))
    assert f"| spearman | {rho['value']:.2f} [{rho['lower']:.2f}, {rho['upper']:.2f}] |" in card
    code = card.partition("```python\n")[2].partition("```")[0]
    code += "print(model(torch.arange(3, 40)[None]).logits.flatten().tolist())"
    env = os.environ | {"HF_HUB_OFFLINE": "1"}
    said = subprocess.run([sys.executable, "-c", code], cwd=folder, env=env, capture_output=True, text=True, check=True)
    with edit({tiny_lm.blocks[k]: v for k, v in given.deltas(2, "gap", [1]).items()}), torch.no_grad():
        expected = tiny_lm.model(torch.arange(3, 40)[None]).logits.flatten()
    torch.testing.assert_close(torch.tensor(json.loads(said.stdout)), expected, atol=1e-4, rtol=0)
