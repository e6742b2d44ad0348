"""What is loaded is what the files hold: nothing is made up, nothing left out, and what cannot work is one sentence."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, PromptTuningConfig, get_peft_model
from safetensors.torch import load_file, save_file
from tiny import ARCHITECTURES, SPECIAL, build_model, build_tokenizer
from tiny_gguf import write_gguf
from transformers import ByT5Tokenizer, PreTrainedTokenizerFast

from probe.errors import ProbeError
from probe.lm.adapters import adapt
from probe.lm.devices import dtype_of
from probe.lm.frozen import FrozenLM
from probe.lm.spec import LMSpec

Weights = dict[str, torch.Tensor]


def loaded(folder: Path, **spec: Any) -> FrozenLM:
    return FrozenLM.load(LMSpec(str(folder), **({"device": "cpu"} | spec)))


def refused(match: str, folder: Path, **spec: Any) -> None:
    with pytest.raises(ProbeError, match=match) as caught:
        loaded(folder, **spec)
    assert "\n" not in str(caught.value)


@pytest.fixture
def saved(tmp_path: Path) -> Callable[..., Path]:
    """saved("gpt2", tie_word_embeddings=True) is the folder of a fresh random model and its tokenizer."""

    def save(architecture: str = "llama", **overrides: Any) -> Path:
        build_model(architecture, **overrides).save_pretrained(tmp_path / "model")
        build_tokenizer().save_pretrained(tmp_path / "model")
        return tmp_path / "model"

    return save


def rewrite(folder: Path, change: Callable[[Weights], Weights]) -> None:
    file = folder / "model.safetensors"
    save_file(change(load_file(file)), file, metadata={"format": "pt"})


def configure(folder: Path, name: str = "config.json", **changes: Any) -> None:
    config = json.loads((folder / name).read_text())
    (folder / name).write_text(json.dumps(config | changes))


# Weights


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_architecture_comes_back_as_it_was_saved(saved: Callable[..., Path], architecture: str) -> None:
    folder = saved(architecture)
    weights, expected = loaded(folder).model.state_dict(), build_model(architecture).state_dict()
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[name], expected[name]) for name in expected)


@pytest.mark.parametrize(
    ("lost", "named"),
    [
        ("model.norm.", "model.norm.weight"),
        ("model.layers.1.", "model.layers.1.input_layernorm.weight"),
        ("model.layers.2.mlp.up_proj", "model.layers.2.mlp.up_proj.weight"),
        ("model.embed_tokens", "model.embed_tokens.weight"),
        ("lm_head", "lm_head.weight"),
    ],
)
def test_weights_that_a_file_lacks_are_refused_and_not_made_up(
    saved: Callable[..., Path], lost: str, named: str
) -> None:
    folder = saved()
    rewrite(folder, lambda weights: {k: v for k, v in weights.items() if not k.startswith(lost)})
    refused(rf"missing \({named}", folder)


@pytest.mark.parametrize("prefix", ["_orig_mod.", "module.", "base_model.model."])
def test_weights_under_a_prefix_are_refused_and_the_prefix_is_shown(saved: Callable[..., Path], prefix: str) -> None:
    folder = saved()
    rewrite(folder, lambda weights: {prefix + k: v for k, v in weights.items()})
    refused(rf"missing \(lm_head.*not in the config \({prefix}lm_head", folder)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"num_hidden_layers": 4}, r"9 missing \(model\.layers\.3\."),
        ({"num_hidden_layers": 2}, r"9 not in the config \(model\.layers\.2\."),
        ({"vocab_size": 300}, r"of another shape \(lm_head.weight, model.embed_tokens.weight\)"),
        ({"intermediate_size": 96}, "9 of another shape"),
        ({"num_key_value_heads": 1}, "6 of another shape"),
        ({"model_type": "gpt_neox"}, "missing"),
        ({"attention_bias": True}, r"missing \(model.layers.0.self_attn.k_proj.bias"),
        ({"num_attention_heads": 5}, "--lm.model"),
        ({"num_attention_heads": 0}, "--lm.model"),
        ({"hidden_size": -32}, "--lm.model"),
        ({"hidden_size": "wide"}, "--lm.model"),
        ({"num_hidden_layers": None}, "--lm.model"),
        ({"rope_parameters": {"rope_type": "unheard-of"}}, "--lm.model"),
        ({"model_type": "unheard-of"}, "--lm.model"),
    ],
)
def test_a_config_that_disagrees_with_the_weights_or_with_itself_is_refused(
    saved: Callable[..., Path], changes: dict[str, Any], named: str
) -> None:
    folder = saved()
    configure(folder, **changes)
    refused(named, folder)


def test_a_bias_that_the_config_denies_is_refused_and_not_left_out(saved: Callable[..., Path]) -> None:
    folder = saved(attention_bias=True)
    configure(folder, attention_bias=False)
    refused(r"12 not in the config \(model.layers.0.self_attn.k_proj.bias", folder)


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_tied_embeddings_another_head_and_old_buffers_are_no_fault(
    saved: Callable[..., Path], architecture: str
) -> None:
    folder = saved(architecture, tie_word_embeddings=True)
    before = loaded(folder).fingerprint
    assert not any("lm_head" in key for key in load_file(folder / "model.safetensors"))
    old = "transformer.h.0.attn" if architecture == "gpt2" else "model.layers.0.self_attn"
    extra = {"score.weight": torch.ones(1, 32), "v_head.summary.bias": torch.ones(1)}
    extra |= {f"{old}.bias": torch.ones(1, 1, 9, 9), f"{old}.masked_bias": torch.ones(1)}
    extra |= {f"{old}.rotary_emb.inv_freq": torch.ones(4)}
    rewrite(folder, lambda weights: weights | extra)
    assert loaded(folder).fingerprint == before


def test_gpt2_as_it_was_first_published_without_its_prefix_loads(saved: Callable[..., Path]) -> None:
    folder = saved("gpt2", tie_word_embeddings=True)
    before = loaded(folder).fingerprint
    rewrite(folder, lambda weights: {k.removeprefix("transformer."): v for k, v in weights.items()})
    assert loaded(folder).fingerprint == before
    configure(folder, n_layer=2)
    refused(r"not in the config \(h\.2\.attn", folder)


def test_a_missing_shard_is_refused(saved: Callable[..., Path]) -> None:
    folder = saved()
    build_model().save_pretrained(folder, max_shard_size="30KB")
    (folder / "model.safetensors").unlink()
    loaded(folder)
    next(folder.glob("model-00002-of-*")).unlink()
    refused("model-00002-of-", folder)


@pytest.mark.parametrize(
    ("how", "named"),
    [
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "pip install.*bitsandbytes"),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, "pip install.*bitsandbytes"),
        ({"quant_method": "gptq", "bits": 4}, "ptimum|gptqmodel"),
        ({"quant_method": "awq", "bits": 4, "zero_point": True}, "gptqmodel"),
        ({"quant_method": "compressed-tensors", "config_groups": {}}, "compressed.tensors"),
        ({"quant_method": "unheard-of"}, r"3 missing \(model.layers.0.self_attn.q_proj.weight"),
    ],
)
def test_quantised_weights_without_their_package_are_one_sentence(
    saved: Callable[..., Path], how: dict[str, Any], named: str
) -> None:
    folder = saved()
    rewrite(folder, lambda weights: {k.replace("q_proj.weight", "q_proj.qweight"): v for k, v in weights.items()})
    configure(folder, quantization_config=how)
    refused(named, folder)


# Adapters


@pytest.fixture
def adapter(saved: Callable[..., Path], tmp_path: Path) -> Path:
    """A LoRA adapter that matters, in a folder of its own."""
    base = saved()
    adapted = get_peft_model(build_model(), LoraConfig(target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM"))
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.2)
    adapted.peft_config["default"].base_model_name_or_path = str(base)
    adapted.save_pretrained(tmp_path / "adapter")
    return tmp_path / "adapter"


def test_an_adapter_is_merged_into_the_base_that_it_names(adapter: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ids = torch.arange(5, 25)[None]
    plain = loaded(adapter.parent / "model").model(ids).logits
    expected = PeftModel.from_pretrained(build_model(), adapter)(ids).logits
    lm = loaded(adapter)
    assert f"The adapter {adapter} is merged into its base" in capsys.readouterr().err
    torch.testing.assert_close(lm.model(ids).logits, expected, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(lm.model(ids).logits, plain, atol=0.1)
    assert sum(p.numel() for p in lm.model.parameters()) == sum(p.numel() for p in build_model().parameters())
    assert not any(p.requires_grad for p in lm.model.parameters())
    assert adapt(lm, 1, 2, 4).get_nb_trainable_parameters()[0] == 2 * 2 * (64 + 48)  # as on any other model


def test_an_adapters_own_tokenizer_and_template_come_first(adapter: Path) -> None:
    assert "<|user|>" in loaded(adapter).encoder.render("hen")
    build_tokenizer("ASK {{ messages[0]['content'] }}").save_pretrained(adapter)
    assert loaded(adapter).encoder.render("hen") == "ASK hen"


def test_an_adapter_on_a_gguf_file_is_merged_as_well(
    adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PROBE_CACHE", str(tmp_path / "cache"))
    file = write_gguf(tmp_path / "tiny.gguf")
    configure(adapter, "adapter_config.json", base_model_name_or_path=str(file))
    stored = load_file(adapter / "adapter_model.safetensors")
    save_file({k: v for k, v in stored.items() if ".layers.2." not in k}, adapter / "adapter_model.safetensors")
    assert loaded(adapter).fingerprint != loaded(file).fingerprint


@pytest.mark.parametrize(
    "change",
    [
        lambda stored: {k: v for k, v in stored.items() if ".layers.1." not in k},
        lambda stored: {k.replace(".layers.2.", ".layers.7."): v for k, v in stored.items()},
        lambda stored: stored | {k.replace(".layers.2.", ".layers.7."): v.clone() for k, v in stored.items()},
        lambda stored: {f"_orig_mod.{k}": v for k, v in stored.items()},
    ],
)
def test_an_adapter_is_never_merged_by_half(adapter: Path, change: Callable[[Weights], Weights]) -> None:
    stored = load_file(adapter / "adapter_model.safetensors")
    save_file(change(stored), adapter / "adapter_model.safetensors")
    refused("missing or have no place", adapter)


def test_adapters_that_cannot_be_merged_are_refused(adapter: Path, tmp_path: Path) -> None:
    torch.save(load_file(adapter / "adapter_model.safetensors"), adapter / "adapter_model.bin")
    (adapter / "adapter_model.safetensors").unlink()
    refused("found a .*LORA adapter in adapter_model.bin", adapter)
    prompts = get_peft_model(build_model(), PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2))
    prompts.peft_config["default"].base_model_name_or_path = str(adapter.parent / "model")
    prompts.save_pretrained(tmp_path / "prompts")
    refused("PROMPT_TUNING", tmp_path / "prompts")


def test_an_adapter_on_an_adapter_or_of_another_width_is_refused(
    adapter: Path, tmp_path: Path, tiny_lm_folder: Path
) -> None:
    second = Path(shutil.copytree(adapter, tmp_path / "second"))
    configure(second, "adapter_config.json", base_model_name_or_path=str(adapter))
    refused("found another adapter", second)
    build_model(hidden_size=64).save_pretrained(adapter.parent / "model")
    refused("--lm.model", adapter)


# Tokenizers


def test_a_tokenizer_that_is_not_fast_is_refused(saved: Callable[..., Path]) -> None:
    folder = saved()
    for file in folder.glob("*token*"):
        file.unlink()
    ByT5Tokenizer().save_pretrained(folder)
    refused("expected a fast tokenizer.*found ByT5Tokenizer", folder)


def test_a_pad_token_without_an_embedding_pads_with_the_end_token(saved: Callable[..., Path]) -> None:
    folder = saved()
    expected = loaded(folder).generate(["a hen", "x"], 8, 0.0, 0)
    tokenizer = build_tokenizer()
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    assert tokenizer.pad_token_id == len(SPECIAL) + 256
    tokenizer.save_pretrained(folder)
    configure(folder, pad_token_id=tokenizer.pad_token_id)
    lm = loaded(folder)
    assert lm.tokenizer.pad_token == "<|end|>"
    assert lm.generate(["a hen", "x"], 8, 0.0, 0) == expected


def test_without_pad_and_end_token_another_special_one_pads_and_none_at_all_is_refused() -> None:
    bare = build_tokenizer()
    bare.pad_token = bare.eos_token = None
    lm = FrozenLM(build_model(), bare)
    assert lm.tokenizer.pad_token == "<|begin|>"
    assert len(lm.generate(["a hen", "x"], 8, 0.0, 0)) == 2
    nothing = PreTrainedTokenizerFast(tokenizer_object=build_tokenizer().backend_tokenizer)
    with pytest.raises(ProbeError, match="expected a pad, end, begin or unknown token"):
        FrozenLM(build_model(), nothing)


def test_the_tokenizer_of_a_larger_model_is_refused(saved: Callable[..., Path]) -> None:
    folder = saved(vocab_size=200)
    refused("at most 200 tokens.*found one of 261", folder)


# Devices and number types


@pytest.mark.parametrize("device", ["cuda", "cuda:7", "gpu", "meta", "", "cpu:x"])
def test_a_device_that_is_not_there_is_one_sentence_before_anything_is_loaded(tmp_path: Path, device: str) -> None:
    if device == "cuda" and torch.cuda.is_available():
        pytest.skip("this machine has one")
    with pytest.raises(ProbeError, match=f"^--lm.device {device}: expected a device of this machine") as caught:
        FrozenLM.load(LMSpec(str(tmp_path), device=device))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("amx", "bf16", "taken"), [(False, False, "float32"), (True, False, "bfloat16"), (False, True, "float32")]
)
def test_auto_takes_bfloat16_only_where_the_cpu_is_faster_in_it_and_says_so(
    saved: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    amx: bool,
    bf16: bool,
    taken: str,
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: bf16)
    assert str(loaded(saved(), dtype="auto").model.dtype) == f"torch.{taken}"
    assert f"--lm.dtype auto: {taken}" in capsys.readouterr().err
    assert dtype_of("float16", torch.device("cpu")) == torch.float16
    assert not capsys.readouterr().err


@pytest.mark.parametrize(("native", "taken"), [(True, torch.bfloat16), (False, torch.float32)])
def test_auto_takes_bfloat16_on_a_gpu_that_has_it_and_does_not_emulate_it(
    monkeypatch: pytest.MonkeyPatch, native: bool, taken: torch.dtype
) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: native or including_emulation)
    assert dtype_of("auto", torch.device("cuda")) == taken
    assert dtype_of("auto", torch.device("mps")) == torch.float32


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_finite_numbers_are_refused(saved: Callable[..., Path], value: float) -> None:
    folder = saved()
    rewrite(folder, lambda weights: weights | {"lm_head.weight": torch.full((261, 32), value)})
    refused(r"expected finite weights, found others in 1 \(lm_head.weight\)", folder)


def test_a_config_does_not_say_what_a_forward_pass_returns(saved: Callable[..., Path]) -> None:
    folder = saved()
    plain = loaded(folder)
    configure(folder, return_dict=False, output_hidden_states=True, output_attentions=True)
    asked = loaded(folder)
    assert asked.generate(["a hen"], 4, 0.0, 0) == plain.generate(["a hen"], 4, 0.0, 0)
    assert asked.fingerprint == plain.fingerprint
