"""The pieces of a text that is told while it comes make up the text, and no piece is taken back."""

from collections.abc import Sequence

import pytest
from tiny import build_tokenizer
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from probe.lm.frozen import FrozenLM
from probe.lm.text_so_far import TextSoFar


def ids_of(text: str) -> list[int]:
    return list(build_tokenizer()(text, add_special_tokens=False)["input_ids"])


def pieces(text: str, before: str | None = None, stops: Sequence[str] = ()) -> tuple[list[str], TextSoFar]:
    """What is told after each token, a token being a byte, and at the end; it ends early at a stop."""
    so_far = TextSoFar(build_tokenizer(), None if before is None else ids_of(before), stops)
    told = []
    for token in ids_of(text):
        told.append(so_far.add(token))
        if so_far.stopped:
            break
    return [*told, so_far.rest()], so_far


@pytest.mark.parametrize("text", ["  A hen.\n\n It sat. \n", "naïve — 物語 👩‍🚀 é", "", "   ", "a\ufffd b\ufffd"])
def test_the_pieces_make_up_the_text_as_the_library_strips_it(text: str) -> None:
    told, so_far = pieces(text)
    assert "".join(told) == text.strip() == so_far.told
    if "\ufffd" not in text:
        assert "\ufffd" not in "".join(told)


def test_a_letter_is_told_when_its_last_byte_is_there_and_a_space_when_something_follows() -> None:
    assert pieces("é b ")[0] == ["", "é", "", " b", "", ""]
    cut = build_tokenizer().decode(ids_of("é")[:1])
    so_far = TextSoFar(build_tokenizer())
    assert (so_far.add(ids_of("é")[0]), so_far.rest()) == ("", cut)


def test_a_bare_text_keeps_its_spaces() -> None:
    assert "".join(pieces(" a time. ", before="Once upon")[0]) == " a time. "


def test_a_space_that_a_tokenizer_drops_at_the_head_of_a_text_is_told_where_a_text_goes_on() -> None:
    vocabulary = {"<unk>": 0, "▁Once": 1, "▁upon": 2, "▁a": 3}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")
    assert fast.decode([3]) == "a"
    assert TextSoFar(fast, [1, 2]).add(3) == " a"


@pytest.mark.parametrize(
    ("stops", "expected"),
    [(["b c"], "a "), (["c d", "d"], "a b "), (["x"], "a b c d"), (["d"], "a b c"), ([""], "a b c d")],
)
def test_a_stop_ends_the_text_before_it_and_no_part_of_it_is_told(stops: list[str], expected: str) -> None:
    told, so_far = pieces("a b c d", stops=stops)
    assert "".join(told).rstrip() == expected.rstrip()
    assert so_far.stopped == (expected != "a b c d")


def test_what_only_looked_like_a_stop_is_told_after_all() -> None:
    told, so_far = pieces("a STOR", stops=["STOP"])
    assert told == ["a", "", " ", "", "", "STOR", ""]
    assert not so_far.stopped
    assert "".join(pieces("a STO", stops=["STOP"])[0]) == "a STO"


def test_a_bare_text_is_continued_behind_one_bos_and_without_the_template(tiny_lm: FrozenLM) -> None:
    bos = tiny_lm.tokenizer.bos_token_id
    assert tiny_lm.encoder.template.source
    assert tiny_lm.encoder.bare_ids("a hen") == [bos, *ids_of("a hen")]
    assert tiny_lm.encoder.bare_ids("<|begin|>a hen") == [bos, *ids_of("a hen")]
