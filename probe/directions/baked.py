"""A model with the direction built in: a bias on the last linear map of each steered block, which any program runs.

Only where the block adds that map's output to the residual stream as it is; whether it does is asked of the model that was
written, whose logits have to be those of the hooked one.
"""

import copy
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from probe.data.reading import Passage
from probe.errors import ProbeError
from probe.lm.frozen import FrozenLM
from probe.lm.hooks import edit

LAST = re.compile(r"(^|\.)(down_proj|c_proj|dense_4h_to_h|fc2|fc_out)$")
"""What the last linear map of a block is called, among the families in which it ends the feed-forward part."""
BIASED_BY = "mlp_bias"
"""The setting with which Llama and its kin have biases there; others have them always, or cannot."""
TOLERANCE = 1e-3
"""Between logits that are the same but for the order of float32's additions; a vector that is lost moves them by about 1."""
SAMPLES = ("Write a story about a town.", "What is a surprising use for a brick?")


@torch.no_grad()
def bake(lm: FrozenLM, vectors: Mapping[int, Tensor], folder: Path) -> float:
    """Writes the model with the vectors `[D]` of some blocks added to their outputs; returns how far its logits are off.

    Raises:
        ProbeError: where this architecture has no place for them, told by the logits of what was written.
    """
    model = _in_float32(lm)
    blocks = _blocks(model, lm)
    if hasattr(model.config, BIASED_BY):
        setattr(model.config, BIASED_BY, True)
        for block in blocks:
            for name, linear in block.named_modules():
                if "mlp" in name and isinstance(linear, nn.Linear) and linear.bias is None:
                    linear.bias = nn.Parameter(torch.zeros(linear.out_features))
    for k, vector in vectors.items():
        last = _last_linear(blocks[k])
        bias = getattr(last, "bias", None)
        if not isinstance(bias, Tensor):
            raise ProbeError(
                f"--to baked: expected a bias at the end of block {k} of this {model.config.model_type} model, found none; use "
                "--to llama.cpp, or generate with the direction."
            )
        bias += vector.cpu() / float(getattr(model.config, "residual_multiplier", 1.0))
    with tempfile.TemporaryDirectory(dir=folder.parent) as beside:
        written = Path(beside) / folder.name
        model.save_pretrained(written)
        lm.tokenizer.save_pretrained(written)
        off = _difference(lm, vectors, written)
        if not off < TOLERANCE:
            raise ProbeError(
                f"--to baked: expected the logits of the hooked model, found others by up to {off:.2g}: a "
                f"{model.config.model_type} model has no place for a direction in its weights; use --to llama.cpp."
            )
        written.rename(folder)
    return off


def _in_float32(lm: FrozenLM) -> PreTrainedModel:
    model: PreTrainedModel = copy.deepcopy(lm.model)
    nn.Module.to(model, "cpu", torch.float32)
    return model


def _blocks(model: PreTrainedModel, lm: FrozenLM) -> list[nn.Module]:
    """The copies of the model's decoder blocks."""
    name_of = {module: name for name, module in lm.model.named_modules()}
    modules = dict(model.named_modules())
    return [modules[name_of[block]] for block in lm.blocks]


def _last_linear(block: nn.Module) -> nn.Module | None:
    linears = [module for name, module in block.named_modules() if LAST.search(name) and "attn" not in name]
    return linears[-1] if linears else None


def _difference(lm: FrozenLM, vectors: Mapping[int, Tensor], folder: Path) -> float:
    """The greatest difference of logits between the hooked model, in float32, and the one that was written."""
    written = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    hooked = _in_float32(lm)
    blocks = _blocks(hooked, lm)
    worst = 0.0
    for encoded in lm.encoder.encode([Passage(text) for text in SAMPLES]):
        ids = torch.tensor([encoded.ids])
        with edit({blocks[k]: vector.cpu().float() for k, vector in vectors.items()}):
            expected = hooked(ids).logits
        worst = max(worst, float((written(ids).logits - expected).abs().max()))
    return worst
