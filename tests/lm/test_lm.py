"""The frozen LM: what cannot work is refused in one sentence, and generation and surprise are what they say."""

import json
import math
import random
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import CHAT_TEMPLATE, build_model, build_tokenizer
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    BertConfig,
    BertLMHeadModel,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    T5Config,
)

import probe.lm.frozen
from probe.data.reading import Passage
from probe.errors import ProbeError
from probe.lm.frozen import FrozenLM
from probe.lm.hooks import edit
from probe.lm.sampling import continued, padded
from probe.lm.spec import LMSpec
from probe.lm.trees import collate, plan_rows

MakeLM = Callable[..., FrozenLM]
PROMPTS = ["Write.", "Tell me of a grey hen and of the sea.", "x"]


def refusal(spec: LMSpec) -> str:
    """What the user is told: one line, with the option and the model in it."""
    with pytest.raises(ProbeError) as caught:
        FrozenLM.load(spec)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"--lm.model {spec.model}: ")
    return message


# Loading


def test_an_encoder_decoder_is_refused_before_weights_or_tokenizer_are_looked_for(tmp_path: Path) -> None:
    T5Config().save_pretrained(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["config.json"]
    assert "encoder-decoder t5" in refusal(LMSpec(str(tmp_path)))


def test_an_encoder_is_refused_because_its_tokens_see_what_follows_them(tmp_path: Path) -> None:
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4}
    BertLMHeadModel(BertConfig(vocab_size=261, **sizes)).save_pretrained(tmp_path)
    build_tokenizer().save_pretrained(tmp_path)
    refusal(LMSpec(str(tmp_path)))


@pytest.mark.parametrize("model", ["nobody-at-all/no-such-model", "no-such-model"])
def test_an_unreachable_hub_id_fails_with_one_sentence_that_names_the_embedded_model(model: str) -> None:
    assert "data/storyteller/lm0" in refusal(LMSpec(model))


def damaged(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "damaged"))


@pytest.mark.parametrize("lost", ["config.json", "model.safetensors", "tokenizer*"])
def test_a_folder_with_a_file_missing_is_refused(tiny_lm_folder: Path, tmp_path: Path, lost: str) -> None:
    folder = damaged(tiny_lm_folder, tmp_path)
    for file in folder.glob(lost):
        file.unlink()
    refusal(LMSpec(str(folder)))


@pytest.mark.parametrize("file", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_folder_with_a_truncated_file_is_refused(tiny_lm_folder: Path, tmp_path: Path, file: str) -> None:
    folder = damaged(tiny_lm_folder, tmp_path)
    content = (folder / file).read_bytes()
    (folder / file).write_bytes(content[: len(content) // 2])
    refusal(LMSpec(str(folder)))


def test_pickled_weights_are_not_read(tiny_lm_folder: Path, tmp_path: Path) -> None:
    folder = damaged(tiny_lm_folder, tmp_path)
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    refusal(LMSpec(str(folder)))


def test_a_loaded_model_is_frozen_in_eval_mode_and_of_the_dtype_asked_for(tiny_lm_folder: Path) -> None:
    for dtype, expected in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        lm = FrozenLM.load(LMSpec(str(tiny_lm_folder), dtype=dtype, device="cpu"))
        assert not lm.model.training
        assert not any(parameter.requires_grad for parameter in lm.model.parameters())
        assert lm.model.dtype == expected
        assert (lm.n_layers, lm.hidden_size, lm.max_tokens) == (3, 32, 1024)


def test_a_model_in_training_is_frozen_and_put_in_eval_mode() -> None:
    lm = FrozenLM(build_model().train(True).requires_grad_(True), build_tokenizer())
    assert not any(module.training for module in lm.model.modules())
    assert not any(parameter.requires_grad for parameter in lm.model.parameters())


def test_without_a_pad_token_the_end_token_pads() -> None:
    tokenizer = build_tokenizer()
    tokenizer.pad_token = None
    lm = FrozenLM(build_model(), tokenizer)
    rows = [[one] for one in lm.encoder.encode([Passage("a hen"), Passage("x")])]
    batch = collate(rows, [7, 3], lm.encoder.pad_id, torch.float32, lm.device).plain
    assert batch.input_ids[1, -1] == tokenizer.eos_token_id
    assert batch.attention_mask.sum(1).tolist() == [7, 3]
    assert batch.example.tolist() == [7, 3]


# Fingerprint


def test_the_fingerprint_survives_saving_and_loading(tiny_lm: FrozenLM, tiny_lm_folder: Path, tmp_path: Path) -> None:
    first = FrozenLM.load(LMSpec(str(tiny_lm_folder), device="cpu"))
    assert first.fingerprint == tiny_lm.fingerprint
    moved = FrozenLM.load(LMSpec(str(damaged(tiny_lm_folder, tmp_path)), device="cpu"))
    assert moved.fingerprint == first.fingerprint


def test_one_changed_weight_changes_the_fingerprint(make_lm: MakeLM, tiny_lm_folder: Path, tmp_path: Path) -> None:
    fingerprints = {make_lm().fingerprint, make_lm(seed=1).fingerprint, make_lm("gpt2").fingerprint}
    assert len(fingerprints) == 3
    folder = damaged(tiny_lm_folder, tmp_path)
    weights = load_file(folder / "model.safetensors")
    for tensor in weights.values():
        value = tensor.view(-1)[-1].clone()
        tensor.view(-1)[-1] = torch.nextafter(value, torch.tensor(math.inf))
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        fingerprints.add(FrozenLM.load(LMSpec(str(folder), device="cpu")).fingerprint)
        tensor.view(-1)[-1] = value
    assert len(fingerprints) == 3 + len(weights)


def test_another_dtype_or_config_changes_the_fingerprint(make_lm: MakeLM) -> None:
    halved, retuned = make_lm(), make_lm()
    halved.model.to(torch.bfloat16)
    retuned.model.config.rms_norm_eps = 1e-3
    assert len({make_lm().fingerprint, halved.fingerprint, retuned.fingerprint}) == 3


# Rendering


def test_a_chat_template_gets_no_second_bos_and_a_base_model_gets_its_first(make_lm: MakeLM) -> None:
    for template in ({}, {"chat_template": None}):
        lm = make_lm(**template)
        bos = lm.tokenizer.bos_token_id
        for passage in (Passage("a hen"), Passage("a hen", "It slept.")):
            (encoded,) = lm.encoder.encode([passage])
            assert encoded.ids[0] == bos
            assert encoded.ids.count(bos) == 1
            assert not encoded.pooled[0]


@pytest.mark.parametrize("template", [CHAT_TEMPLATE, None])
def test_the_span_reply_is_the_last_token_of_the_rendered_template(make_lm: MakeLM, template: str | None) -> None:
    lm = make_lm(chat_template=template)
    (encoded,) = lm.encoder.encode([Passage("Hello there", at_reply=True)])
    whole = lm.tokenizer(lm.encoder.render("Hello there"), add_special_tokens=template is None)["input_ids"]
    assert list(encoded.ids) == whole
    assert encoded.pooled == (False,) * (len(whole) - 1) + (True,)


def test_the_system_message_comes_before_the_instruction(make_lm: MakeLM) -> None:
    assert make_lm(system="Be brief.").encoder.render("a hen") == (
        "<|begin|><|system|>Be brief.<|end|><|user|>a hen<|end|><|assistant|>"
    )


def test_a_base_model_without_a_chat_template_reads_generates_and_judges(make_lm: MakeLM) -> None:
    lm = make_lm(chat_template=None)
    assert lm.encoder.render("a hen") == "a hen\n\n"
    assert lm.encoder.template_hash != make_lm().encoder.template_hash
    assert lm.nll([Passage("a hen"), Passage("a hen", "ok")]).isfinite().all()
    assert len(lm.generate(PROMPTS, 5, 0.0, 0)) == len(PROMPTS)


def test_a_first_token_that_carries_the_space_before_the_span_is_read(make_lm: MakeLM) -> None:
    lm = trained_on("USER: hen stone ASSISTANT:", 300)
    lm.tokenizer.chat_template = "{% for m in messages %}USER: {{ m['content'] }}{% endfor %} ASSISTANT:"

    def kept(prompt: str) -> list[str]:
        (encoded,) = lm.encoder.encode([Passage(prompt)])
        return [lm.tokenizer.decode([i]) for i, inside in zip(encoded.ids, encoded.pooled, strict=True) if inside]

    assert kept("hen") == [" hen"]
    assert kept("hen stone") == [" hen", " stone"]


# Generation


def test_generation_leaves_the_global_random_state_untouched_and_is_reproducible_by_seed(tiny_lm: FrozenLM) -> None:
    torch.manual_seed(5)
    random.seed(5)
    torch_state, python_state = torch.get_rng_state(), random.getstate()
    first = tiny_lm.generate(PROMPTS, 16, 1.0, seed=1)
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert random.getstate() == python_state
    torch.manual_seed(6)
    assert tiny_lm.generate(PROMPTS, 16, 1.0, seed=1) == first
    assert tiny_lm.generate(PROMPTS, 16, 1.0, seed=2) != first


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "bloom", "mamba"])
@pytest.mark.parametrize("steered", [False, True])
def test_greedy_answers_in_a_batch_equal_one_at_a_time(make_lm: MakeLM, architecture: str, steered: bool) -> None:
    lm = make_lm(architecture)
    texts = [lm.tokenizer.decode([token]) for token in range(lm.model.config.vocab_size)]
    unreadable = [token for token, text in enumerate(texts) if len(text) > 1 or not text.isascii()]
    lm.model.generation_config.suppress_tokens = unreadable  # bytes beyond ASCII would all look alike as text
    with edit({lm.blocks[1]: torch.linspace(-0.5, 0.5, 32)} if steered else {}):
        batch = lm.generate(PROMPTS, 24, 0.0, seed=0)
        assert batch == [lm.generate([prompt], 24, 0.0, seed=1)[0] for prompt in PROMPTS]
    assert len(set(batch)) == len(PROMPTS)
    assert len(set("".join(batch))) > 9


def test_an_answer_holds_neither_the_prompt_nor_special_tokens(make_lm: MakeLM) -> None:
    lm = make_lm()
    with torch.no_grad():  # every next token is <|end|>, whatever came before
        lm.model.lm_head.weight.zero_()
    favour_end = lm.model.lm_head.register_forward_hook(lambda _m, _a, out: out + torch.eye(261)[4])
    assert lm.generate(PROMPTS, 8, 0.0, seed=0) == ["", "", ""]
    favour_end.remove()


EFFECTIVE: dict[str, Any] = {
    "repetition_penalty": 1.5,
    "no_repeat_ngram_size": 1,
    "encoder_repetition_penalty": 3.0,
    "sequence_bias": [[[70], 9.0]],
    "bad_words_ids": [[token] for token in range(100, 250)],
    "suppress_tokens": [*range(100, 250)],
    "begin_suppress_tokens": [*range(5, 100)],
    "guidance_scale": 3.0,
    "watermarking_config": {"bias": 9.0},
    "forced_eos_token_id": 80,
    "exponential_decay_length_penalty": [1, 9.0],
    "num_beams": 3,
    "max_time": 1e-9,
    "stop_strings": ["e", "a", "t"],
    "return_dict_in_generate": True,
    "do_sample": True,
}
"""Settings of generation, each with a value that matters."""


@pytest.mark.parametrize("setting", EFFECTIVE)
def test_the_models_own_generation_config_changes_no_text(setting: str) -> None:
    rows = [[1, *range(70, 76)], [1, 90, 91]]

    def with_it() -> PreTrainedModel:
        model = build_model()
        config = model.generation_config.to_dict() | {setting: EFFECTIVE[setting]}
        model.generation_config = GenerationConfig(**config)
        return model

    def outcome(model: PreTrainedModel) -> Any:
        """What transformers itself makes of it: other tokens, another type or an error."""
        try:
            torch.manual_seed(0)
            out = model.generate(torch.tensor(rows[:1]), max_new_tokens=16)
            return out.tolist() if isinstance(out, torch.Tensor) else type(out)
        except ValueError as error:
            return str(error)

    assert outcome(with_it()) != outcome(build_model()), "else this shows nothing"
    one, other = (FrozenLM(model, build_tokenizer()) for model in (build_model(), with_it()))
    ids, expected = (continued(lm.model, *padded(rows, 0, lm.device), 16).sequences for lm in (other, one))
    assert torch.equal(ids, expected)
    for temperature in (0.0, 1.0):
        assert other.generate(PROMPTS, 16, temperature, 3) == one.generate(PROMPTS, 16, temperature, 3)


def test_of_the_models_own_generation_config_every_end_token_holds() -> None:
    rows, plain = [[1, *range(70, 76)]], build_model()
    free = continued(FrozenLM(plain, build_tokenizer()).model, *padded(rows, 0, plain.device), 16).sequences[0].tolist()
    model = build_model()
    model.generation_config.eos_token_id = [4, free[10], free[13]]
    stopped = (
        continued(FrozenLM(model, build_tokenizer()).model, *padded(rows, 0, model.device), 16).sequences[0].tolist()
    )
    assert stopped == free[: min(free.index(token, 7) for token in (free[10], free[13])) + 1]
    silent = build_model()  # that says nothing of it: the tokenizer's holds
    silent.generation_config = GenerationConfig(eos_token_id="<end>")
    assert FrozenLM(silent, build_tokenizer()).model.generation_config.eos_token_id == 4


def test_generation_settings_in_the_models_config_neither_stop_nor_change_it(tiny_lm: FrozenLM) -> None:
    model = build_model()
    model.config.repetition_penalty = 1.5
    assert FrozenLM(model, build_tokenizer()).generate(PROMPTS, 9, 0.0, 0) == tiny_lm.generate(PROMPTS, 9, 0.0, 0)


# Replies


def trained_on(text: str, vocab_size: int) -> FrozenLM:
    """A random model with a byte-level BPE whose tokens are the words of a text, with and without a space before."""
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trained.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, show_progress=False, initial_alphabet=alphabet)
    trained.train_from_iterator([text] * 9, trainer)
    return FrozenLM(
        build_model(vocab_size=vocab_size), PreTrainedTokenizerFast(tokenizer_object=trained, pad_token="!")
    )


def test_a_reply_may_begin_with_any_spelling_of_an_answer_but_not_with_what_begins_two_answers() -> None:
    lm = trained_on("Yes No yes no :Yes :No Yes", 300)
    starts = [{lm.tokenizer.decode([i]) for i in tokens} for tokens in lm.encoder.reply_starts("Yes", "No")]
    # "YES" was no word of that text: it begins with a letter, and " YES" with a space, which begins " NO" as well.
    assert starts == [{"Yes", " Yes", "yes", " yes", "Y"}, {"No", " No", "no", " no", "N"}]
    # Without the words as tokens a reply begins with a letter; a lone space begins either answer.
    byte = FrozenLM(build_model(), build_tokenizer())
    assert [[byte.tokenizer.decode([i]) for i in tokens] for tokens in byte.encoder.reply_starts("Yes", "No")] == [
        ["Y", "y"],
        ["N", "n"],
    ]
    assert [[byte.tokenizer.decode([i]) for i in tokens] for tokens in byte.encoder.reply_starts("Nay", "No")] == [
        [],
        [],
    ]


def test_a_word_inside_a_text_may_be_another_token_than_the_same_word_alone(make_lm: MakeLM) -> None:
    metaspace = Tokenizer(
        models.BPE({"▁": 0, "Y": 1, "▁Y": 2, "N": 3, "▁N": 4, "?": 5, ">": 6}, [("▁", "Y"), ("▁", "N")])
    )
    metaspace.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=metaspace, pad_token="?")
    tokenizer.chat_template = "{{ messages[0]['content'] }}>"
    lm = FrozenLM(build_model(vocab_size=300), tokenizer)
    named = [set(tokenizer.convert_ids_to_tokens(tokens)) for tokens in lm.encoder.reply_starts("Y", "N")]
    assert named == [{"▁Y", "Y"}, {"▁N", "N"}]


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "mamba"])
def test_reply_logprobs_equal_the_models_own_softmax_one_question_at_a_time(
    make_lm: MakeLM, architecture: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lm = make_lm(architecture)
    texts, starts = ["hen " * n for n in (1, 9, 3, 20, 1, 8)], [[70, 102], [71], [0, 9, 260]]
    questions = [lm.encoder.encode_question("Is this good? {}".format, [text]) for text in texts]
    monkeypatch.setattr(probe.lm.frozen, "plan_rows", partial(plan_rows, budget=200))
    got = lm.reply_logprobs(questions, starts)
    for row, text in zip(got, texts, strict=True):
        ids = lm.tokenizer(lm.encoder.render(f"Is this good? {text}"), add_special_tokens=False, return_tensors="pt")[
            "input_ids"
        ]
        p = lm.model(ids).logits[0, -1].softmax(-1)
        expected = torch.stack([p[tokens].sum().log() for tokens in starts])
        torch.testing.assert_close(row, expected, rtol=1e-4, atol=1e-4)


def test_an_overlong_question_is_cut_in_its_texts_alone_and_strict_refuses_it(make_lm: MakeLM) -> None:
    lm, asked = make_lm(max_tokens=60), "Which? {} or {}".format
    short, long = "hen", "sea " * 40
    (before, between, after) = ("<|begin|><|user|>Which? ", " or ", "<|end|><|assistant|>")
    for texts in ([short, long], [long, short], [long, long], [short, short], ["é" * 40, "猫" * 40]):
        encoded = lm.encoder.encode_question(asked, texts)
        shown = str(lm.tokenizer.decode(list(encoded.ids)))
        assert shown.startswith(before)
        assert shown.endswith(after)
        one, other = shown[len(before) : -len(after)].split(between)
        assert texts[0].startswith(one)
        assert texts[1].startswith(other)
        assert short not in texts or short in (one, other)  # the longer one pays
        assert encoded.truncated == (texts != [short, short])
        assert encoded.pooled == (False,) * (len(encoded.ids) - 1) + (True,)
        assert len(encoded.ids) <= 60
        assert texts == [short, short] or len(encoded.ids) > 55  # and no more than it must
    with pytest.raises(ProbeError, match="--strict"):
        make_lm(max_tokens=60, strict=True).encoder.encode_question(asked, [short, long])
    with pytest.raises(ProbeError, match="no room for a text within 16 tokens"):
        make_lm(max_tokens=16).encoder.encode_question(asked, [short, long])


# Surprise


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "mamba"])  # in trees, and in plain rows
@pytest.mark.parametrize("chat", [True, False])
def test_nll_equals_the_models_own_cross_entropy_over_the_span_in_batches_of_unequal_lengths(
    make_lm: MakeLM, architecture: str, chat: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    lm = make_lm(architecture) if chat else make_lm(architecture, chat_template=None)
    passages = [Passage("a hen", "It slept."), Passage("a grey hen"), Passage("x", "naïve 猫"), Passage("a hen", "k")]
    passages += [Passage("a hen " * (7 * i % 5), "It slept by the sea. " * (5 * i % 7 + 1)) for i in range(12)]
    expected = []
    for encoded in lm.encoder.encode(passages):
        ids = torch.tensor([encoded.ids])
        expected.append(lm.model(input_ids=ids, labels=ids.where(torch.tensor([encoded.pooled]), -100)).loss)
    monkeypatch.setattr(probe.lm.frozen, "plan_rows", partial(plan_rows, budget=400))
    shapes: list[torch.Size] = []
    reading = lm.model.get_input_embeddings().register_forward_hook(lambda _m, args, _o: shapes.append(args[0].shape))
    _ = lm.longest_in_tree
    shapes.clear()
    values = lm.nll(passages)
    reading.remove()
    assert 1 < len(shapes) < len(passages)
    read, n_tokens = sum(rows * width for rows, width in shapes), sum(len(e.ids) for e in lm.encoder.encode(passages))
    assert (
        read > n_tokens if architecture == "mamba" else read < 0.9 * n_tokens
    )  # some are padded, or beginnings are shared
    torch.testing.assert_close(values, torch.stack(expected), rtol=1e-5, atol=1e-5)


def test_nll_of_an_empty_response_is_nan_and_changes_no_other(tiny_lm: FrozenLM) -> None:
    full = Passage("a hen", "It slept.")
    values = tiny_lm.nll([Passage("a hen", ""), full, Passage("a hen", " \n")])
    assert values.isnan().tolist() == [True, False, True]
    assert torch.equal(values[1:2], tiny_lm.nll([full]))


def test_a_model_that_knows_the_answer_is_not_surprised(make_lm: MakeLM) -> None:
    lm = make_lm()
    (token,) = lm.tokenizer("z", add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        lm.model.lm_head.weight.zero_()
    uniform = lm.nll([Passage("a hen", "zzz")])
    torch.testing.assert_close(uniform, torch.tensor([math.log(261)]))
    favour = lm.model.lm_head.register_forward_hook(lambda _m, _a, out: out + 50 * torch.eye(261)[token])
    assert lm.nll([Passage("a hen", "zzz")]).item() == pytest.approx(0, abs=1e-6)
    favour.remove()


def test_the_saved_folder_holds_no_pickle(tiny_lm_folder: Path) -> None:
    assert json.loads((tiny_lm_folder / "config.json").read_text())["model_type"] == "llama"
    assert not [*tiny_lm_folder.glob("*.bin"), *tiny_lm_folder.glob("*.pt")]
