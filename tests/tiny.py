"""Random language models small enough to run by the dozen, and a tokenizer for them: in code, seeded, offline."""

from collections.abc import Callable
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from probe.lm.frozen import FrozenLM

SPECIAL = ("<|pad|>", "<|begin|>", "<|user|>", "<|assistant|>", "<|end|>")
CHAT_TEMPLATE = (
    "<|begin|>{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)

_PLAIN: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 1024,
}
_GROUPED = _PLAIN | {"num_key_value_heads": 2}
_OLD = {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 1024}
# A window of 8 tokens is shorter than the texts of the tests, so it matters.
ARCHITECTURES: dict[str, dict[str, Any]] = {
    **{name: _GROUPED for name in ("llama", "qwen2", "olmo2", "cohere", "granite", "smollm3", "starcoder2")},
    **{name: _GROUPED for name in ("stablelm", "phi", "phi3")},
    "mistral": _GROUPED | {"sliding_window": 8},
    "qwen3": _GROUPED | {"head_dim": 8},
    "gemma2": _GROUPED | {"head_dim": 8, "sliding_window": 8},
    "gemma3_text": _GROUPED | {"head_dim": 8, "sliding_window": 8, "sliding_window_pattern": 2},
    "mixtral": _GROUPED | {"num_local_experts": 4},
    "gpt_neox": _PLAIN,
    "gpt2": _OLD,
    "gptj": _OLD | {"rotary_dim": 4},
    "gpt_neo": {
        "hidden_size": 32,
        "num_layers": 3,
        "num_heads": 4,
        "attention_types": [[["global", "local", "global"], 1]],
        "window_size": 8,
        "max_position_embeddings": 1024,
    },
    "opt": _PLAIN | {"ffn_dim": 64, "word_embed_proj_dim": 32},
    "falcon": _PLAIN,
    "bloom": {"hidden_size": 32, "n_layer": 3, "n_head": 4},
    "mpt": {"d_model": 32, "n_layers": 3, "n_heads": 4, "max_seq_len": 1024},
    "mamba": {"hidden_size": 32, "num_hidden_layers": 3, "state_size": 4},
    "modernbert-decoder": _PLAIN | {"local_attention": 8, "sep_token_id": 4, "cls_token_id": 1},
}
_MAMBA = {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 4, "mamba_chunk_size": 8}
_LINEAR = {"linear_num_value_heads": 4, "linear_num_key_heads": 4, "linear_key_head_dim": 8, "linear_value_head_dim": 8}
_EXPERTS = {"num_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 32}
HYBRIDS: dict[str, dict[str, Any]] = {
    "jamba": _GROUPED
    | {"attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2, "expert_layer_offset": 1}
    | {"num_experts": 2, "use_mamba_kernels": False, "mamba_d_state": 4, "mamba_dt_rank": 4},
    "recurrent_gemma": _GROUPED | {"lru_width": 32, "attention_window_size": 8, "head_dim": 8},
    "qwen3_next": _GROUPED
    | _LINEAR
    | _EXPERTS
    | {"head_dim": 8, "shared_expert_intermediate_size": 32}
    | {"layer_types": ["linear_attention", "full_attention", "linear_attention"]},
    "olmo_hybrid": _GROUPED | _LINEAR | {"layer_types": ["linear_attention", "full_attention", "linear_attention"]},
    "bamba": _GROUPED | _MAMBA | {"attn_layer_indices": [1]},
    "falcon_h1": _GROUPED | _MAMBA | {"mamba_d_ssm": 32, "mamba_n_heads": 4, "head_dim": 8},
    "granitemoehybrid": _GROUPED
    | _MAMBA
    | {"layer_types": ["mamba", "attention", "mamba"], "num_local_experts": 2, "num_experts_per_tok": 1}
    | {"shared_intermediate_size": 32},
    "lfm2": _GROUPED | {"layer_types": ["conv", "full_attention", "conv"]},
    "nemotron_h": _GROUPED
    | {"layers_block_type": ["mamba", "attention", "mlp"], "head_dim": 8, "mamba_num_heads": 8, "mamba_head_dim": 8}
    | {"ssm_state_size": 4, "n_groups": 2, "chunk_size": 8},
}
"""Their blocks are of several kinds, not all of them with attention."""
_TEXT = _GROUPED | {"num_hidden_layers": 4, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 4, "vocab_size": 261}
ODD: dict[str, dict[str, Any]] = {
    "rwkv": {"hidden_size": 32, "num_hidden_layers": 3, "attention_hidden_size": 32, "context_length": 1024},
    "gemma3n_text": _GROUPED
    | {"head_dim": 8, "laurel_rank": 4, "hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": 261}
    | {"num_kv_shared_layers": 0, "layer_types": ["full_attention"] * 3, "activation_sparsity_pattern": [0.0] * 3},
    "mllama": {
        "text_config": _TEXT
        | {"cross_attention_layers": [1], "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}}
    },
}
"""Not what they are taken for: padding on the left is seen, blocks give several streams, a block never runs on text."""


def build_tokenizer(chat_template: str | None = CHAT_TEMPLATE) -> PreTrainedTokenizerFast:
    """One token a byte, plus the special ones; like Llama's it puts BOS first wherever special tokens are added."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate([*SPECIAL, *alphabet])}, []))
    tokenizer.add_special_tokens(list(SPECIAL))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing("<|begin|> $A", special_tokens=[("<|begin|>", 1)])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<|pad|>", bos_token="<|begin|>", eos_token="<|end|>"
    )
    fast.chat_template = chat_template
    return fast


def build_model(architecture: str = "llama", seed: int = 0, **overrides: Any) -> PreTrainedModel:
    """Three blocks of width 32; weights of 0.2 instead of 0.02, so that attention, positions and blocks matter."""
    # Tied embeddings would make a random model repeat its last token, and generation a constant.
    common = {"vocab_size": len(SPECIAL) + 256, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 4}
    common |= {"tie_word_embeddings": False}
    config = AutoConfig.for_model(architecture, **(common | (ARCHITECTURES | HYBRIDS | ODD)[architecture] | overrides))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config)
        for parameter in model.parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=0.2)
    return model.train(False)


def n_hooks(model: nn.Module) -> int:
    """Forward hooks on any module, before or after."""
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def wordy(lm: FrozenLM) -> FrozenLM:
    """Writes letters alone, of which the last few end a text, so that rows are finished one by one."""
    letters = [lm.tokenizer(c, add_special_tokens=False)["input_ids"][0] for c in "abcdefghijklmnopqrstuvwxyz"]
    never = torch.full((261,), -1e4).index_fill(0, torch.tensor(letters), 0)
    lm.model.lm_head.register_forward_hook(lambda _m, _a, out: out / 2 + never)
    lm.model.generation_config.eos_token_id = letters[-3:]
    return lm


def widths(lm: FrozenLM, work: Callable[[], object]) -> list[tuple[int, int]]:
    """Rows and tokens of each forward pass."""
    shapes: list[tuple[int, int]] = []
    hook = lm.model.get_input_embeddings().register_forward_hook(
        lambda _m, args, _o: shapes.append(tuple(args[0].shape))
    )
    work()
    hook.remove()
    return shapes
