"""LoRA adapters in a language model: new ones, saved ones, and none again."""

import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from peft import LoraConfig, PeftModel, get_peft_model
from safetensors import SafetensorError
from torch import nn
from transformers.pytorch_utils import Conv1D

from probe.errors import ProbeError
from probe.lm import FrozenLM

QUERY_AND_VALUE = {"q_proj", "v_proj", "c_attn", "query_key_value", "qkv_proj", "Wqkv"}
"""What the families call the projections to queries and values, alone or in one with the keys."""


def adapt(lm: FrozenLM, layer: int, rank: int, alpha: int) -> PeftModel:
    """Puts adapters into the blocks up to `layer`; the LM is changed in place.

    In a family whose names for queries and values are not known, every linear layer of these blocks is adapted.
    """
    inside = {module for block in lm.blocks[: layer + 1] for module in block.modules()}
    named = {name: module for name, module in lm.model.named_modules() if module in inside}
    linear = [name for name, module in named.items() if isinstance(module, nn.Linear | Conv1D)]
    usual = [name for name in linear if name.rpartition(".")[2] in QUERY_AND_VALUE]
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=rank,
        lora_alpha=alpha,
        target_modules=usual or linear,
        fan_in_fan_out=any(isinstance(module, Conv1D) for module in named.values()),
    )
    try:
        with _quiet():
            return get_peft_model(lm.model, config)
    except ValueError as error:
        raise ProbeError(
            f"LoRA: PEFT cannot adapt {lm.spec.model} ({error}); correct the rank, or use another scorer for this model."
        ) from error


def attach(lm: FrozenLM, folder: Path, data_fingerprint: str) -> PeftModel:
    """Puts a saved LoRA writer into the LM, which is changed in place.

    Raises:
        ProbeError: where there is none that can be read, or it was made for other weights or of other pairs.
    """
    ours, card = lm.fingerprint, folder / "adapter.json"
    try:
        if not (folder / "adapter_model.safetensors").is_file():  # PEFT would look for a pickle, or ask the hub
            raise FileNotFoundError("adapter_model.safetensors is missing")
        if (kind := json.loads((folder / "adapter_config.json").read_text())["peft_type"]) != "LORA":
            raise ValueError(f"it is a {kind} adapter")
        made = json.loads(card.read_text())["provenance"]
        if made["method"] != "LoRAWriter":
            raise ValueError(f"it is a {made['method']}")
        if made["lm_fingerprint"] != ours:
            raise ValueError("it was made for other weights")
        if made["data_fingerprint"] != data_fingerprint:
            raise ValueError("it learned from other pairs than the direction, so it may have seen the prompts")
        with _quiet():
            return PeftModel.from_pretrained(lm.model, folder)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        raise ProbeError(
            f"--adapter {folder}: expected a LoRA writer for {lm.spec.model}, found none ({error}); "
            "`fit --model LoRAWriter` leaves one."
        ) from error


def take_out(lm: FrozenLM) -> None:
    """Takes the adapter out, if there is one: the LM is bit by bit what it was."""
    if lm.adapter is not None:
        lm.adapter.unload()
        vars(lm.model).pop("peft_config", None)  # older versions of PEFT leave it
        lm.adapter = None


@contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*")  # between PEFT and transformers
        yield
