import os

os.environ["HF_HUB_OFFLINE"] = "1"

from collections.abc import Callable
from pathlib import Path

import lightning.pytorch  # noqa: F401  (its log handler keeps the stderr of its first import: let that outlive one test)
import pytest
import torch
from small import write_sets
from tiny import CHAT_TEMPLATE, build_model, build_tokenizer
from transformers import PreTrainedTokenizerFast

from probe.lm import FrozenLM
from probe.spec import LMSpec

torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))


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
