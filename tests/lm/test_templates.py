"""A chat template is a program that comes with a model: what it may do to an instruction, and what is done about it."""

from collections.abc import Callable
from pathlib import Path

import pytest
from tiny import CHAT_TEMPLATE, build_model, build_tokenizer
from tokenizers import processors

import probe.lm.templates
from probe.activations.extractor import ActivationExtractor
from probe.data.reading import Passage
from probe.errors import ProbeError
from probe.lm.frozen import FrozenLM
from probe.lm.spec import LMSpec
from probe.lm.templates import ChatTemplate

MakeLM = Callable[..., FrozenLM]

GEMMA = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] | trim + '<|end|>' }}{% endfor %}<|assistant|>"
)
USER_ALONE = "{% for m in messages if m['role'] == 'user' %}<|user|>{{ m['content'] }}<|end|>{% endfor %}<|assistant|>"
PARTS = (
    "{% for m in messages %}<|{{ m['role'] }}|>{% for part in m['content'] %}"
    "{% if part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}<|end|>{% endfor %}<|assistant|>"
)
THINKING = (
    CHAT_TEMPLATE + "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}"
)
THINKS_AT_ONCE = CHAT_TEMPLATE + "<think>\n"


def chat(template: str | dict[str, str], **spec: object) -> ChatTemplate:
    return ChatTemplate(build_tokenizer(template), LMSpec(**spec)).fitted()


def said_of(template: str | None, **spec: object) -> str:
    return " ".join(ChatTemplate(build_tokenizer(template), LMSpec(**spec)).fitted().notes())


@pytest.mark.parametrize("template", [GEMMA, USER_ALONE, None], ids=["refuses it", "drops it", "is none"])
def test_where_there_is_no_place_for_a_system_message_it_stands_at_the_head_of_the_instruction_and_this_is_said(
    template: str | None,
) -> None:
    bare, given = chat(template).render("a hen"), chat(template, system="Be brief.").render("a hen")
    assert given == bare.replace("a hen", "Be brief.\n\na hen")
    assert "yours stands at the head of every instruction" in said_of(template, system="Be brief.")
    assert not said_of(template)
    assert not said_of(CHAT_TEMPLATE, system="Be brief.")


TURNS = [("user", "a hen"), ("assistant", "It sat."), ("user", "and then")]


def test_a_conversation_is_put_as_the_template_has_it_with_its_own_system_message_in_place_of_the_specs() -> None:
    template = chat(CHAT_TEMPLATE, system="Be brief.")
    told = "<|user|>a hen<|end|><|assistant|>It sat.<|end|><|user|>and then<|end|><|assistant|>"
    assert template.conversation(TURNS) == f"<|begin|><|system|>Be brief.<|end|>{told}"
    assert template.conversation([("system", "Sing."), *TURNS]) == f"<|begin|><|system|>Sing.<|end|>{told}"
    assert template.conversation(TURNS[:1]) == template.render("a hen")
    folded = chat(GEMMA).conversation([("system", "Sing."), *TURNS])
    assert folded == told.replace("a hen", "Sing.\n\na hen")


def test_a_base_model_is_asked_one_thing() -> None:
    assert chat(None).conversation([("system", "Sing."), ("user", "a hen")]) == "Sing.\n\na hen\n\n"
    with pytest.raises(ProbeError, match="expected one instruction, since it has no chat template, found 3 turns"):
        chat(None).conversation(TURNS)


def test_a_folded_system_message_is_not_part_of_the_span_that_is_read(make_lm: MakeLM) -> None:
    lm = make_lm(chat_template=GEMMA, system="Be brief, hen.")
    (encoded,) = lm.encoder.encode([Passage("a hen")])
    read = [i for i, inside in zip(encoded.ids, encoded.pooled, strict=True) if inside]
    assert lm.tokenizer.decode(read) == "a hen"


def test_a_content_is_given_as_parts_where_the_template_wants_it_so(make_lm: MakeLM) -> None:
    rendered = chat(PARTS, system="Be brief.").render("a hen")
    assert rendered == "<|system|>Be brief.<|end|><|user|>a hen<|end|><|assistant|>"


@pytest.mark.parametrize(
    ("template", "says"),
    [
        ("{% for m in messages %}{{ m['content'] }", "its chat template fails ("),
        ("{{ messages[0]['content'] + 1 }}", "its chat template fails ("),
        ("{{ raise_exception('Never.\nNot now.') }}", "its chat template fails (Never. Not now.)"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "its chat template fails (maximum recursion depth"),
        ("{% for i in range(10**9) %}{% endfor %}", "its chat template fails (Range too big"),
        ("<|user|>Say something.<|assistant|>", "its chat template leaves the instruction out"),
    ],
)
def test_a_template_that_is_of_no_use_is_refused_in_one_sentence_when_the_model_is_loaded(
    tiny_lm_folder: Path, tmp_path: Path, template: str, says: str
) -> None:
    message = refusal(tiny_lm_folder, tmp_path, template)
    assert says in message
    assert "\n" not in message


@pytest.mark.parametrize(
    "template",
    [
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
        "{{ 10 ** (10 ** 10) }}",
        "{{ 'x' * 10 ** 11 }}",
        "{% set ns = namespace(x='x') %}{% for i in range(60) %}{% set ns.x = ns.x + ns.x %}{% endfor %}{{ ns.x }}",
        "{{ messages[-1]['content'] }}{{ 'x' * 10 ** 7 }}",
    ],
    ids=["loops", "computes", "allocates", "doubles", "floods"],
)
def test_a_template_without_end_is_stopped(
    tiny_lm_folder: Path, tmp_path: Path, template: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe.lm.templates, "SECONDS", 2.0)
    assert "does not come to an end, or to too much text" in refusal(tiny_lm_folder, tmp_path, template)


def refusal(folder: Path, tmp_path: Path, template: str) -> str:
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "chat_template.jinja").write_text(template)
    with pytest.raises(ProbeError) as caught:
        FrozenLM.load(LMSpec(str(tmp_path), device="cpu"))
    assert str(caught.value).startswith(f"--lm.model {tmp_path}: ")
    return str(caught.value)


def test_of_several_templates_the_default_the_only_or_the_chosen_one_is_used() -> None:
    two = {"default": CHAT_TEMPLATE, "rag": USER_ALONE}
    assert chat(two).render("a hen") == chat(CHAT_TEMPLATE).render("a hen")
    assert chat({"rag": USER_ALONE}).render("a hen") == chat(USER_ALONE).render("a hen")
    assert chat(two, chat_template_kwargs={"chat_template": "rag"}).render("a hen") == chat(USER_ALONE).render("a hen")
    nameless = {"rag": USER_ALONE, "tool_use": CHAT_TEMPLATE}
    with pytest.raises(ProbeError, match=r"one of its chat templates \(rag, tool_use\), found 'default'"):
        chat(nameless)
    # A name is all that can be given: no template comes out of a config.
    with pytest.raises(ProbeError, match="expected the name of one of its chat templates"):
        chat(nameless, chat_template_kwargs={"chat_template": USER_ALONE})
    with pytest.raises(ProbeError, match="found 'chat_template', which is none"):
        chat(CHAT_TEMPLATE, chat_template_kwargs={"chat_template": USER_ALONE})


def test_a_template_is_told_what_its_arguments_say_and_another_text_is_another_entry(make_lm: MakeLM) -> None:
    on, off = (
        make_lm(chat_template=THINKING, **spec) for spec in ({}, {"chat_template_kwargs": {"enable_thinking": False}})
    )
    assert off.encoder.render("a hen") == on.encoder.render("a hen") + "<think>\n\n</think>\n\n"
    assert on.encoder.template_hash != off.encoder.template_hash
    keys = [ActivationExtractor(lm)._encode([Passage("a hen", "It slept.")])[1] for lm in (on, off)]
    assert keys[0] != keys[1]


@pytest.mark.parametrize("name", ["enable_thinkng", "tokenize", "tools", "messages", "add_generation_prompt"])
def test_an_argument_that_the_template_does_not_know_is_refused(name: str) -> None:
    with pytest.raises(ProbeError, match=f"--lm.chat_template_kwargs: expected variables .* found {name!r}"):
        chat(THINKING + "{{ tools }}", chat_template_kwargs={name: False})


def test_a_switch_for_thinking_and_a_reply_behind_think_are_said() -> None:
    assert "where the model may begin to think" in said_of(THINKING)
    assert '{"enable_thinking": false}' in said_of(THINKING)
    assert "behind <think>, in the model's thoughts: a reply is read and written behind" in said_of(THINKS_AT_ONCE)
    assert not said_of(THINKING, chat_template_kwargs={"enable_thinking": False})


def test_an_instruction_that_the_template_changes_is_refused(make_lm: MakeLM) -> None:
    lm = make_lm(chat_template="<|user|>{{ messages[-1]['content'] | replace('hen', 'cat') }}<|assistant|>")
    lm.encoder.encode([Passage("a dog")])
    with pytest.raises(ProbeError, match="found that it changes 'a hen'"):
        lm.encoder.encode([Passage("a hen")])


def test_an_end_token_that_the_tokenizer_appends_is_neither_read_nor_written_behind() -> None:
    appends, plain = build_tokenizer(None), build_tokenizer(None)
    appends.backend_tokenizer.post_processor = processors.TemplateProcessing(
        "<|begin|> $A <|end|>", special_tokens=[("<|begin|>", 1), ("<|end|>", 4)]
    )
    assert appends("x")["input_ids"][-1] == 4
    other, lm = (FrozenLM(build_model(), tokenizer) for tokenizer in (appends, plain))
    assert other.encoder.encode_question("Good? {}".format, ["hen"]) == lm.encoder.encode_question(
        "Good? {}".format, ["hen"]
    )
    assert other.encoder.encode([Passage("a hen"), Passage("a hen", "It slept.")]) == lm.encoder.encode(
        [Passage("a hen"), Passage("a hen", "It slept.")]
    )
    assert other.encoder.reply_starts("Yes", "No") == lm.encoder.reply_starts("Yes", "No")
    assert other.generate(["x", "a grey hen"], 12, 0.0, 0) == lm.generate(["x", "a grey hen"], 12, 0.0, 0)
    assert other.encoder.ids(["x<|end|>", "x"]) == lm.encoder.ids(["x<|end|>", "x"])  # one that a person wrote stays


def test_a_template_that_writes_the_date_says_that_another_day_reads_other_tokens(make_lm: MakeLM) -> None:
    dated = "{% if not date_string is defined %}{% set date_string = strftime_now('%d %b %Y') %}{% endif %}"
    template = dated + "{{ date_string }} {{ messages[-1]['content'] }}:"
    (note,) = make_lm(chat_template=template).encoder.template.notes()
    assert "writes today's date" in note
    fixed = make_lm(chat_template=template, chat_template_kwargs={"date_string": "26 Jul 2024"})
    assert fixed.encoder.render("hen") == "26 Jul 2024 hen:"
    assert not fixed.encoder.template.notes()
