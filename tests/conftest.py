import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.pop("COLUMNS", None)  # pytest-xdist sets it: what is printed goes by the width that the code says

import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import lightning.pytorch  # noqa: F401  (its log handler keeps the stderr of its first import: let that outlive one test)
import pytest
import torch
from chat_server import Server
from small import write_sets
from tiny import CHAT_TEMPLATE, build_model, build_tokenizer
from transformers import PreTrainedTokenizerFast

from probe.cli import main
from probe.lm.frozen import FrozenLM
from probe.lm.spec import LMSpec

SHARED = tempfile.TemporaryDirectory(prefix="probe-tests-")
os.environ["PROBE_CACHE"] = SHARED.name

# One thread a worker: the models are tiny, and two workers that share cores would wait for each other.
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def converted_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder for all workers of this session: the real model is converted once, and by the code that is tested."""
    own = tmp_path_factory.getbasetemp()
    models = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "converted-models"
    models.mkdir(exist_ok=True)
    return models


@pytest.fixture(autouse=True)
def own_cache(
    tmp_path_factory: pytest.TempPathFactory, converted_models: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """The cache folder of one test: but for converted models, what another has read is not remembered here."""
    cache = tmp_path_factory.mktemp("cache")
    (cache / "models").symlink_to(converted_models)
    monkeypatch.setenv("PROBE_CACHE", str(cache))
    return cache


@pytest.fixture(scope="session")
def tiny_tokenizer() -> PreTrainedTokenizerFast:
    return build_tokenizer()


@pytest.fixture(scope="session")
def make_lm() -> Callable[..., FrozenLM]:
    """A fresh random LM, free to be damaged: make_lm("gpt2", seed=1, system="...", chat_template=None)."""

    def make(architecture: str = "llama", seed: int = 0, chat_template: str | None = CHAT_TEMPLATE, **spec) -> FrozenLM:
        return FrozenLM(build_model(architecture, seed), build_tokenizer(chat_template), LMSpec(**spec))

    return make


@pytest.fixture(scope="session")
def tiny_lm(make_lm: Callable[..., FrozenLM]) -> FrozenLM:
    """Shared by all tests: leave it as you found it."""
    return make_lm()


@pytest.fixture(scope="session")
def tiny_lm_folder(tiny_lm: FrozenLM, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny_lm")
    tiny_lm.model.save_pretrained(folder)
    tiny_lm.tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def small_sets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Paths of small pairs and stories, by the names of ContrastData's arguments."""
    return write_sets(tmp_path_factory.mktemp("sets"))


@pytest.fixture(scope="module")
def fitted(
    tiny_lm_folder: Path, small_sets: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, str]]:
    """A folder in which `fit` was run, and the options that name its data."""
    folder = tmp_path_factory.mktemp("fitted")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        data = {k: v for k, v in small_sets.items() if k != "test_preferences"}
        (folder / "fit.yaml").write_text(
            f"lm: {{model: {tiny_lm_folder}, device: cpu}}\nmodel: {{class_path: MeanDifference}}\nsteering: {{n_prompts: 0}}\n"
            "data:\n  class_path: ContrastData\n  init_args:\n" + "".join(f"    {k}: {v}\n" for k, v in data.items())
        )
        assert main(["fit", "--config", "fit.yaml", "--trainer.enable_progress_bar=false"]) == 0
    return folder, data


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield server
        server.shutdown()
