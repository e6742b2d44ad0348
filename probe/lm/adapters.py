"""LoRA adapters in a language model: new ones, saved ones, and none again."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn
from transformers.pytorch_utils import Conv1D

from probe.errors import ProbeError
from probe.files import from_json
from probe.lm.frozen import FrozenLM

if TYPE_CHECKING:
    from peft import PeftModel

QUERY_AND_VALUE = {"q_proj", "v_proj", "c_attn", "query_key_value", "qkv_proj", "Wqkv"}
"""What the families call the projections to queries and values, alone or in one with the keys."""
IN_THEIR_PLACE = {"in_proj", "in_proj_qkvz", "in_proj_qkv", "linear_x", "linear_y"}
"""The projections into what mixes tokens in a block without attention: Mamba and convolutions, delta nets, Griffin."""


def adapt(lm: FrozenLM, layer: int, rank: int, alpha: int) -> "PeftModel":
    """Puts adapters into each block up to `layer`; the LM is changed in place.

    In a block whose names for queries and values are not known, nor for what stands in their place, every linear layer is
    adapted.

    Raises:
        ProbeError: where a block has none, or PEFT does not adapt what it has.
    """
    from peft import LoraConfig, get_peft_model

    targets = [name for k in range(layer + 1) for name in _targets(lm, k)]
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=rank,
        lora_alpha=alpha,
        target_modules=targets,
        fan_in_fan_out=any(isinstance(module, Conv1D) for module in lm.model.modules()),
    )
    try:
        with _quiet():
            return get_peft_model(lm.model, config)
    except ValueError as error:
        raise ProbeError(
            f"LoRA: PEFT cannot adapt {lm.spec.model} ({error}); correct the rank, or use another scorer for this model."
        ) from error


def _targets(lm: FrozenLM, k: int) -> list[str]:
    """Full names of what is adapted in block k."""
    inside = set(lm.blocks[k].modules())
    linear = [n for n, m in lm.model.named_modules() if m in inside and isinstance(m, nn.Linear | Conv1D)]
    if not linear:
        raise ProbeError(
            f"LoRA: expected a linear layer in each block of {lm.spec.model} that is adapted, found none in block {k}; use "
            "another scorer for this model."
        )
    known = ([n for n in linear if n.rpartition(".")[2] in names] for names in (QUERY_AND_VALUE, IN_THEIR_PLACE))
    return next(filter(None, known), linear)


def places(lm: FrozenLM) -> dict[int, list[str]]:
    """Block -> names of the layers in it that hold an adapter."""
    adapted: dict[int, list[str]] = {}
    for k, block in enumerate(lm.blocks):
        if names := {name.rpartition(".")[2] for name, module in block.named_modules() if hasattr(module, "lora_A")}:
            adapted[k] = sorted(names)
    return adapted


def attach(lm: FrozenLM, folder: Path, data_fingerprint: str) -> "PeftModel":
    """Puts a saved LoRA writer into the LM, which is changed in place.

    Raises:
        ProbeError: where there is none that can be read, or it was made for other weights or of other pairs.
    """
    from peft import PeftModel

    ours, card = lm.fingerprint, folder / "adapter.json"
    try:
        if not (folder / "adapter_model.safetensors").is_file():  # PEFT would look for a pickle, or ask the hub
            raise FileNotFoundError("adapter_model.safetensors is missing")
        if (kind := from_json((folder / "adapter_config.json").read_text())["peft_type"]) != "LORA":
            raise ValueError(f"it is a {kind} adapter")
        made = from_json(card.read_text())["provenance"]
        if made["method"] != "LoRAWriter":
            raise ValueError(f"it is a {made['method']}, which learned to score and not to write")
        if made["lm_fingerprint"] != ours:
            raise ValueError("it was made for other weights")
        if made["data_fingerprint"] != data_fingerprint:
            raise ValueError("it learned from other pairs than the direction, so it may have seen the prompts")
        weights = load_file(folder / "adapter_model.safetensors")
        if bad := next((name for name, tensor in weights.items() if not tensor.isfinite().all()), None):
            raise ValueError(f"{bad} holds something else than finite numbers")
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
