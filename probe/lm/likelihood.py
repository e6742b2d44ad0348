"""How likely a model finds a text: the head runs only where a token of the span is foretold, a whole vocabulary being wide."""

from typing import Any

import torch
from torch import Tensor, nn

from probe.lm.hooks import head_at
from probe.lm.trees import TreeBatch

CHUNK = 256
"""Tokens whose logits are made float32 at once."""


def logits_at(model: nn.Module, batch: TreeBatch, mask: Tensor) -> Tensor:
    """Logits `[n, V]` at the n tokens of the mask `where` `[B, T]`, row by row."""
    head: Any = getattr(model, "get_output_embeddings", lambda: None)()
    with head_at(head, mask):
        logits: Tensor = model(**batch.inputs, use_cache=False).logits
    # A head that is no module of its own has seen all.
    return logits[0] if logits.shape[:2] == (1, int(mask.sum())) != mask.shape else logits[mask]


def surprise(model: nn.Module, batch: TreeBatch) -> Tensor:
    """Mean negative log-likelihood `[N]`, in nats per token, of each text's span; its first token has nothing before it."""
    nodes = torch.arange(batch.parent.shape[1], device=batch.parent.device)
    foretold = batch.pool_mask.any(1) & (batch.parent != nodes)
    rows, at = foretold.nonzero(as_tuple=True)
    before = batch.parent[rows, at]
    foretelling = torch.zeros_like(foretold)
    foretelling[rows, before] = True
    of_node = (foretelling.flatten().cumsum(0) - 1).view_as(foretelling)[
        rows, before
    ]  # siblings share the logits of their parent
    logits = logits_at(model, batch, foretelling)
    total = torch.cat([chunk.float().logsumexp(-1) for chunk in torch.split(logits, CHUNK)])
    told = logits[of_node, batch.input_ids[rows, at]].float()
    of_token = torch.zeros(foretold.shape, device=told.device).masked_scatter(foretold, total[of_node] - told)
    spans = (batch.pool_mask * foretold[:, None]).float()
    return ((spans @ of_token[..., None])[..., 0] / spans.sum(-1)).flatten()[batch.place]
