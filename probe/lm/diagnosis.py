"""What is true of a model beyond what loading needs: that hooks read and steer what they are said to, one way or another."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from probe.lm.checks import CHECKS, TEXTS, Check, ReadableLM, reading_a_tree_changes_nothing
from probe.lm.hooks import edit, record
from probe.lm.sampling import continued, padded

TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.1, torch.float16: 0.05}
"""Share of the spread of a token's logits within which two passes agree."""


@torch.inference_mode()
def layer_k_is_hidden_states_k_plus_1(lm: ReadableLM) -> str | None:
    """What is read after block k is what transformers calls hidden_states[k + 1]; after the last one comes the final norm.

    Mamba's list begins behind the first block, so that there it is hidden_states[k].
    """
    ids = torch.tensor(lm.encoder.ids([TEXTS[1]]), device=lm.device)
    read: dict[int, Tensor] = {}
    with record(dict(enumerate(lm.blocks)), read.__setitem__, stop=False):
        hidden_states = lm.model(ids, output_hidden_states=True, use_cache=False).hidden_states
    if hidden_states is None or len(hidden_states) <= len(lm.blocks):
        n = 0 if hidden_states is None else len(hidden_states)
        return f"transformers gives {n} hidden states for {len(lm.blocks)} blocks"
    wrong = [
        [k for k in range(len(lm.blocks) - 1) if not torch.equal(read[k], hidden_states[k + ahead])] for ahead in (1, 0)
    ]
    return f"the output of block {wrong[0][0]} is another state than transformers says" if all(wrong) else None


@torch.inference_mode()
def steering_by_nothing_changes_nothing(lm: ReadableLM) -> str | None:
    """Strength 0 is, bit by bit, the plain model; and a strength above it is not."""
    ids = torch.tensor(lm.encoder.ids([TEXTS[1]]), device=lm.device)
    plain = lm.model(ids, use_cache=False).logits
    block = lm.blocks[len(lm.blocks) // 2]
    width = lm.model.get_input_embeddings().weight.shape[1]
    with edit({block: torch.zeros(width, device=lm.device)}):
        if not torch.equal(lm.model(ids, use_cache=False).logits, plain):
            return "logits at strength 0 are not those of the plain model"
    with edit({block: torch.ones(width, device=lm.device)}):
        if torch.equal(lm.model(ids, use_cache=False).logits, plain):
            return f"a vector that is added after block {len(lm.blocks) // 2} changes no logit"
    return None


@torch.inference_mode()
def writing_with_the_cache_is_writing_without(lm: ReadableLM) -> str | None:
    """The logits of the next tokens, from the KV cache and from the whole text anew."""
    rows = lm.encoder.ids([TEXTS[1]])
    kept, anew = (
        continued(lm.model, *padded(rows, lm.encoder.pad_id, lm.device), 3, output_logits=True, use_cache=cache)
        for cache in (True, False)
    )
    for step, (one, other) in enumerate(zip(kept.logits, anew.logits, strict=False)):
        size = float(other.float().std() * other.shape[-1] ** 0.5)
        if not float((one - other).float().norm()) <= TOLERANCE.get(lm.model.dtype, 1e-3) * size:
            return f"token {step + 1} has other logits with the cache than without"
        if kept.sequences[0, len(rows[0]) + step] != anew.sequences[0, len(rows[0]) + step]:
            return None  # a tie: from here on they write different texts
    return None


DIAGNOSIS: Sequence[Check] = (
    *CHECKS,
    Check("texts that begin alike may share a row", reading_a_tree_changes_nothing, needed=False),
    Check("layer k is hidden_states[k + 1]", layer_k_is_hidden_states_k_plus_1),
    Check("steering by 0 changes nothing", steering_by_nothing_changes_nothing),
    Check("writing with the cache is writing without", writing_with_the_cache_is_writing_without, needed=False),
)
"""All that can be asked of a model."""


def overridden(theirs: Any) -> dict[str, Any]:
    """What a model's own generation config would have changed in the texts, and what is not used here: penalties and the like."""
    others = ("transformers_version", "_from_model_config", "use_cache", "output_attentions", "output_hidden_states")
    said = theirs.to_diff_dict() if theirs is not None else {}
    return {k: v for k, v in said.items() if not k.endswith("_token_id") and k not in others}
