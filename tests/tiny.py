"""Random language models small enough to run by the dozen, and a tokenizer for them: in code, seeded, offline."""

from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

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
}


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
    config = AutoConfig.for_model(architecture, **(common | ARCHITECTURES[architecture] | overrides))
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
