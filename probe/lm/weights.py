"""The weights are those of the config, all of them, and an adapter is worked into them whole or not at all."""

import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import safe_open
from transformers import PreTrainedModel

from probe.errors import ProbeError


def refuse_made_up(name: str, model: PreTrainedModel, report: Mapping[str, Any]) -> None:
    """Transformers fills what a file lacks with random numbers, and passes over what the config does not mention."""
    missing, mismatched = sorted(report["missing_keys"]), sorted(key for key, *_ in report["mismatched_keys"])
    surplus = [] if getattr(model, "is_quantized", False) else _surplus(model, sorted(report["unexpected_keys"]))
    wrong = {"missing": missing, "of another shape": mismatched, "not in the config": surplus}
    if missing or mismatched:  # then a prefix, say, may stand before every key
        wrong["not in the config"] = sorted(report["unexpected_keys"])
    if any(wrong.values()):
        told = [f"{len(keys)} {what} ({_first(keys)})" for what, keys in wrong.items() if keys]
        raise ProbeError(
            f"--lm.model {name}: expected the weights of {type(model).__name__} as config.json describes it, but in its files "
            f"{', '.join(told)}; save the model again, or correct the config."
        )
    if broken := [key for key, weight in model.named_parameters() if not weight.isfinite().all()]:
        raise ProbeError(
            f"--lm.model {name}: expected finite weights, found others in {len(broken)} ({_first(broken)}); get the "
            "model again, or, where they were cut to float16, take --lm.dtype bfloat16."
        )


def _surplus(model: PreTrainedModel, unexpected: list[str]) -> list[str]:
    """Weights of layers that the model has, or would have with more blocks; another head or old buffers are no loss."""
    layers = {
        re.sub(r"\.\d+(?=\.)", ".0", module)
        for module, layer in model.named_modules()
        if next(layer.parameters(recurse=False), None) is not None
    }
    layers |= {layer.removeprefix(f"{model.base_model_prefix}.") for layer in layers}
    return [key for key in unexpected if re.sub(r"\.\d+(?=\.)", ".0", key.rpartition(".")[0]) in layers]


def merged(name: str, model: PreTrainedModel, folder: Path) -> PreTrainedModel:
    """The model with a PEFT adapter worked into its weights, all of it or nothing."""
    from peft import PeftConfig, PeftModel, get_peft_model_state_dict

    file, config = folder / "adapter_model.safetensors", PeftConfig.from_pretrained(str(folder))
    if config.is_prompt_learning or not file.is_file():  # PEFT would unpickle, or ask the hub
        raise ProbeError(
            f"--lm.model {name}: expected an adapter of weights in adapter_model.safetensors, found a {config.peft_type} "
            f"adapter in {', '.join(sorted(f.name for f in folder.glob('adapter_model*'))) or 'no file'}; "
            "merge it yourself, and name the merged model."
        )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*missing adapter keys")  # refused below
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing")  # between PEFT and transformers
        adapted = PeftModel.from_pretrained(model, folder)
    with safe_open(file, "pt") as opened:
        stored = set(opened.keys())
    wanted = set(get_peft_model_state_dict(adapted, save_embedding_layers=False))
    if lost := sorted(wanted - stored) + sorted(stored - wanted - set(adapted.state_dict())):
        raise ProbeError(
            f"--lm.model {name}: expected an adapter for the layers of {type(model).__name__}, but {len(lost)} of its weights "
            f"are missing or have no place ({_first(lost)}); name the base that it was made for."
        )
    whole: PreTrainedModel = adapted.merge_and_unload(safe_merge=True)
    vars(whole).pop("peft_config", None)  # or the next adapter would be taken for a second one
    return whole


def _first(keys: list[str]) -> str:
    return ", ".join(keys[:3]) + " ..." * (len(keys) > 3)
