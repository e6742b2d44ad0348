"""Rows that are written together are each what they would be alone, whoever leaves the batch and whoever shares a prompt."""

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from tiny import n_hooks, widths, wordy
from torch import Tensor

from probe.data.reading import Passage
from probe.lm.frozen import FrozenLM
from probe.lm.hooks import contiguous, head_at
from probe.steering.arms import Arm, Sampling, written
from probe.steering.measuring import Readers, measure

MakeLM = Callable[..., FrozenLM]
PROMPTS = ["Write.", "Tell me of a grey hen and of the sea.", "x", "Of rain.", "y", "A hen?"]
DELTA = torch.linspace(-0.5, 0.5, 32)
ARMS = [
    Arm("plain"),
    *(Arm(f"{i}", {1: DELTA * i}, i) for i in (6, 12)),
    Arm("without", {0: DELTA / DELTA.norm()}, operator="without"),
]


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma2", "mamba"])
def test_rows_that_are_finished_leave_the_batch_and_the_others_go_on_as_alone(
    make_lm: MakeLM, architecture: str
) -> None:
    lm = wordy(make_lm(architecture))
    before = n_hooks(lm.model)
    alone = [lm.write([prompt], 24, 1.0, 3)[0].text for prompt in PROMPTS]
    found: list[str] = []
    shapes = widths(lm, lambda: found.extend(lm.generate(PROMPTS, 24, 1.0, 3)))
    assert found == alone
    assert len({len(text) for text in found}) > 2
    assert shapes[0][0] == len(PROMPTS)
    assert (shapes[-1][0] < len(PROMPTS)) == (architecture != "mamba")  # a recurrent state is left as it is
    assert n_hooks(lm.model) == before


@pytest.mark.parametrize("tokens", ["all", "prompt", "generated"])
def test_a_steered_row_is_what_it_is_alone_while_others_leave(make_lm: MakeLM, tokens: str) -> None:
    lm = wordy(make_lm())
    asked = [(prompt, arm) for prompt in PROMPTS for arm in ARMS]
    how = Sampling(20, 1.0, 0, tokens)
    together = written(lm, asked, how)
    alone = [written(lm, [one], how)[0] for one in asked]
    assert [one.text for one in together] == [one.text for one in alone]
    assert len({one.text for one in together[: len(ARMS)]}) > 1
    for one, other in zip(together, alone, strict=True):
        assert one.nll == pytest.approx(other.nll, rel=1e-4, nan_ok=True)


def test_a_prompt_that_many_arms_share_is_read_once_where_the_steering_does_not_touch_it(tiny_lm: FrozenLM) -> None:
    asked = [(PROMPTS[1], arm) for arm in ARMS[:3]]
    (length,) = {len(tiny_lm.encoder.ids([tiny_lm.encoder.render(PROMPTS[1])])[0])}
    read = {
        tokens: widths(tiny_lm, lambda tokens=tokens: written(tiny_lm, asked, Sampling(4, 1.0, 0, tokens)))[:2]
        for tokens in ("all", "generated")
    }
    assert read["all"][0] == (3, length)
    assert read["generated"] == [(1, length - 1), (3, 1)]


@pytest.mark.parametrize("tokens", ["all", "prompt", "generated"])
@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_how_surprised_the_writer_was_is_what_reading_its_text_again_gives(
    make_lm: MakeLM, tokens: str, temperature: float
) -> None:
    lm = wordy(make_lm())
    asked = [(prompt, arm) for prompt in PROMPTS[:3] for arm in ARMS]
    how = Sampling(12, temperature, 0, tokens)
    found = written(lm, asked, how)
    assert sum(math.isfinite(one.nll) for one in found) >= 4  # those whose end is no special token are read again
    readers = Readers(1, DELTA)
    again = measure(lm, asked, [replace(one, nll=math.nan) for one in found], how, readers)
    for one, other in zip(measure(lm, asked, found, how, readers), again, strict=True):
        assert one.kl == pytest.approx(other.kl, abs=1e-4, nan_ok=True)


def test_what_follows_is_told_all_rows_after_each_token(make_lm: MakeLM) -> None:
    lm = wordy(make_lm())
    told: list[Sequence[str]] = []
    texts = [one.text for one in lm.write(PROMPTS, 16, 1.0, 3, lambda so_far: told.append(list(so_far)))]
    assert all(len(row) == len(PROMPTS) for row in told)
    assert told[-1] == texts
    assert 1 < len(told) <= 16


@torch.inference_mode()
def test_the_head_gets_its_states_in_one_piece_or_only_those_that_are_asked_for(tiny_lm: FrozenLM) -> None:
    head, ids = tiny_lm.model.get_output_embeddings(), torch.tensor([[5, 6, 7, 8], [9, 10, 11, 12]])
    seen: list[Tensor] = []
    full = tiny_lm.model(input_ids=ids).logits
    where = torch.tensor([[0, 1, 0, 0], [1, 0, 0, 1]]).bool()
    for within in (contiguous(head), head_at(head, where), nullcontext()):
        with within:
            hook = head.register_forward_hook(lambda _m, args, _o: seen.append(args[0]))
            logits = tiny_lm.model(input_ids=ids, logits_to_keep=0 if len(seen) == 1 else 1).logits
            hook.remove()
        if len(seen) == 2:
            torch.testing.assert_close(logits[0], full[where])
    assert [h.is_contiguous() for h in seen] == [True, True, False]
    assert n_hooks(tiny_lm.model) == 0


def test_a_texts_surprise_is_not_stated_where_it_is_read_as_other_tokens(make_lm: MakeLM) -> None:
    lm = make_lm()
    space, letter = (lm.tokenizer(c, add_special_tokens=False)["input_ids"][0] for c in " a")
    with torch.no_grad():
        lm.model.lm_head.weight.zero_()
    favour = lm.model.lm_head.register_forward_hook(lambda _m, _a, out: out + 50 * torch.eye(261)[letter])
    assert lm.write(["x"], 3, 0.0, 0)[0].nll == pytest.approx(0, abs=1e-5)
    assert lm.nll([Passage("x", "aaa")]).item() == pytest.approx(0, abs=1e-5)
    favour.remove()
    lm.model.lm_head.register_forward_hook(lambda _m, _a, out: out + 50 * torch.eye(261)[space])
    assert math.isnan(lm.write(["x"], 3, 0.0, 0)[0].nll)
