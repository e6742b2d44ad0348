"""A tiny Llama as a GGUF file, with quantised weights, a tokenizer and a chat template, as llama.cpp's converter writes it."""

from pathlib import Path

import gguf
import numpy as np
from tiny import CHAT_TEMPLATE, SPECIAL
from tokenizers import pre_tokenizers

WIDTH, INNER, BLOCKS, HEADS, KV_HEADS = 32, 64, 2, 4, 2
TOKENS = [*SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet()), "he", "hen"]
TENSORS = {
    "token_embd": (len(TOKENS), WIDTH),
    "output": (len(TOKENS), WIDTH),
    "attn_q": (WIDTH, WIDTH),
    "attn_k": (WIDTH * KV_HEADS // HEADS, WIDTH),
    "attn_v": (WIDTH * KV_HEADS // HEADS, WIDTH),
    "attn_output": (WIDTH, WIDTH),
    "ffn_gate": (INNER, WIDTH),
    "ffn_up": (INNER, WIDTH),
    "ffn_down": (WIDTH, INNER),
}


def write_gguf(file: Path, seed: int = 0, without: str = "") -> Path:
    """Writes the model; `without` names a tensor to leave out."""
    writer, rng = gguf.GGUFWriter(file, "llama"), np.random.default_rng(seed)
    writer.add_block_count(BLOCKS)
    writer.add_context_length(256)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_vocab_size(len(TOKENS))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(TOKENS)
    writer.add_token_types(
        [gguf.TokenType.CONTROL] * len(SPECIAL) + [gguf.TokenType.NORMAL] * (len(TOKENS) - len(SPECIAL))
    )
    writer.add_token_merges(["h e", "he n"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(4)
    writer.add_pad_token_id(0)
    writer.add_chat_template(CHAT_TEMPLATE)
    blocks = [f"blk.{k}.{name}" for k in range(BLOCKS) for name in TENSORS if "_" in name and name != "token_embd"]
    for name in ("token_embd", *blocks, "output"):
        weight = rng.normal(0, 0.2, TENSORS[name.rpartition(".")[2]]).astype(np.float32)
        packed = gguf.quants.quantize(weight, gguf.GGMLQuantizationType.Q4_1)
        if name != without:
            writer.add_tensor(f"{name}.weight", packed, raw_dtype=gguf.GGMLQuantizationType.Q4_1)
    norms = [f"blk.{k}.{name}" for k in range(BLOCKS) for name in ("attn_norm", "ffn_norm")]
    for name in ("output_norm", *norms):
        writer.add_tensor(f"{name}.weight", rng.normal(1, 0.1, WIDTH).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file
