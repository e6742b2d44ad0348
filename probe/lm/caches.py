"""Rows of a cache of keys and values: taken out of a batch, and put beside the rows of another."""

from typing import Any

import torch
from torch.nn.functional import pad
from transformers import PreTrainedModel
from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer


def selectable(model: PreTrainedModel) -> bool:
    """Whether the cache is of keys and values alone, from which rows can be taken."""
    model_class: Any = model
    if not model_class._supports_default_dynamic_cache():
        return False
    layers = DynamicCache(config=model.config).layers
    return {type(layer) for layer in layers} <= {DynamicLayer, DynamicSlidingWindowLayer}


def selected(out: Any, rows: list[int]) -> dict[str, Any]:
    """The cache of some rows, as `generate` takes it; by version of transformers it has another name."""
    name = "cache" if hasattr(out, "cache") else "past_key_values"
    cache = out[name]
    cache.batch_select_indices(torch.tensor(rows, device=out.sequences.device))
    return {name: cache}


def joined(some: dict[str, Any], others: dict[str, Any], length: int) -> dict[str, Any]:
    """The caches of two batches as one of so many positions, each row's last one on the right.

    What a row lacks on the left is zeros, which the attention mask hides; what it has beyond `length` is dropped.
    """
    ((name, cache),) = some.items()
    others_layers = [other.layers for other in others.values()]
    for layers in zip(cache.layers, *others_layers, strict=True):
        if not layers[0].is_initialized:  # shares the keys of another
            continue
        for states in ("keys", "values"):
            setattr(layers[0], states, torch.cat([_last(layer, states, length) for layer in layers]))
        if hasattr(layers[0], "cumulative_length"):
            layers[0].cumulative_length = length
    return {name: cache}


def _last(layer: Any, states: str, length: int) -> torch.Tensor:
    """The last positions `[B, heads, T, D]` of a layer; one with a window keeps no more than that needs."""
    found: torch.Tensor = getattr(layer, states)
    kept = min(length, layer.sliding_window - 1) if layer.is_sliding else length
    found = found[:, :, max(found.shape[2] - kept, 0) :]
    return pad(found, (0, 0, kept - found.shape[2], 0))
