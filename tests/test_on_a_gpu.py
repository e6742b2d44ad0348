"""What only a GPU can show: `python -m pytest tests/test_on_a_gpu.py`; skipped where there is none."""

import json
from pathlib import Path

import pytest
import torch

from probe.activations.extractor import ActivationExtractor
from probe.activations.pooling import POOLINGS
from probe.cli import main
from probe.data.reading import Passage
from probe.files import from_json
from probe.lm.frozen import FrozenLM
from probe.lm.spec import LMSpec
from probe.steering.arms import Arm, write
from probe.steering.settings import Sampling

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU that PyTorch can use")
ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def two() -> tuple[FrozenLM, FrozenLM]:
    """The organism's language model, on the CPU and on the GPU."""
    cpu, gpu = (
        FrozenLM.load(LMSpec(str(ROOT / "data/storyteller/lm0"), dtype="float32", device=d)) for d in ("cpu", "cuda")
    )
    return cpu, gpu


def passages(n: int) -> list[Passage]:
    lines = (ROOT / "data/storyteller/stories_a.jsonl").read_text().splitlines()[:n]
    return [Passage(row["prompt"], row["text"]) for row in map(json.loads, lines)]


@pytest.mark.parametrize("trees", [True, False])
def test_reading_gives_the_numbers_of_the_cpu(two: tuple[FrozenLM, FrozenLM], trees: bool) -> None:
    cpu, gpu = two
    expected = ActivationExtractor(cpu)(passages(200))
    gpu.longest_in_tree = cpu.longest_in_tree if trees else 0
    got = ActivationExtractor(gpu)(passages(200))
    for pooling in POOLINGS:
        torch.testing.assert_close(got.pooled(pooling), expected.pooled(pooling), atol=2e-4, rtol=2e-4)


def test_where_the_memory_ends_half_of_a_batch_is_read_at_a_time_to_the_same_numbers(
    two: tuple[FrozenLM, FrozenLM], monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu = two[1]
    monkeypatch.setattr(gpu, "longest_in_tree", 0)
    monkeypatch.setattr(gpu, "batch_tokens", 2**22)
    texts = [Passage(f"{i} {one.prompt}", one.response) for i in range(20) for one in passages(200)]
    unlimited = ActivationExtractor(gpu)
    expected = unlimited(texts)
    torch.cuda.empty_cache()
    allowed = torch.cuda.memory_reserved() + 192 * 2**20
    torch.cuda.set_per_process_memory_fraction(allowed / torch.cuda.get_device_properties(0).total_memory)
    try:
        limited = ActivationExtractor(gpu)
        got = limited(texts)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert limited.reads.passes > unlimited.reads.passes
    for pooling in POOLINGS:
        torch.testing.assert_close(got.pooled(pooling), expected.pooled(pooling), atol=2e-4, rtol=2e-4)


def test_what_is_written_greedily_is_what_the_cpu_writes_steered_or_not(two: tuple[FrozenLM, FrozenLM]) -> None:
    v = torch.nn.functional.normalize(
        torch.randn(two[0].hidden_size, generator=torch.Generator().manual_seed(0)), dim=0
    )
    arms = [Arm("plain"), Arm("none", {1: 0 * v}), Arm("steered", {1: 4 * v}, 4.0)]
    asked = [(one.prompt, arm) for one in passages(8) for arm in arms]
    cpu, gpu = (write(lm, asked, Sampling(24, 0.0)) for lm in two)
    assert gpu[0::3] == gpu[1::3] != gpu[2::3]
    agree = sum(a == b for a, b in zip(cpu, gpu, strict=True))
    assert agree >= len(asked) - 1  # two tokens may tie


def test_the_main_job_finds_on_a_gpu_what_it_finds_on_a_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = {}
    for device in ("cpu", "cuda"):
        (tmp_path / device).mkdir()
        monkeypatch.chdir(tmp_path / device)
        assert main(["fit", "--config", "organism", "--lm.device", device, "--steering.n_prompts", "2"]) == 0
        (metrics,) = Path.cwd().rglob("metrics.json")
        found[device] = from_json(metrics.read_text())
    assert found["cuda"]["chosen"] == found["cpu"]["chosen"]
    cpu, gpu = ({(r["metric"], r["column"]): r["value"] for r in found[d]["results"]["test"]} for d in found)
    assert gpu == pytest.approx(cpu, abs=0.01, nan_ok=True)
