"""Steering edits exactly what it says, and the model is as before afterwards, whatever happened inside."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import pytest
import torch
from tiny import n_hooks
from torch import Tensor, nn

from probe.errors import ProbeError
from probe.lm.frozen import FrozenLM
from probe.lm.hooks import edit, record
from probe.lm.operators import OPERATORS, Operator, clamp, heeds_strength, keeping_norm, operator_called, plus, without
from probe.lm.spec import Tokens

IDS = torch.tensor([[1, 20, 21, 22, 23, 24], [1, 40, 30, 20, 10, 50]])
DELTA = torch.linspace(-2, 2, 32)
MakeLM = Callable[..., FrozenLM]


@pytest.fixture(params=["llama", "gpt2", "falcon", "gptj", "mamba"])
def lm(request: pytest.FixtureRequest, make_lm: MakeLM) -> FrozenLM:
    return make_lm(request.param)


@torch.inference_mode()
def logits(lm: FrozenLM, ids: Tensor = IDS) -> Tensor:
    return lm.model(input_ids=ids, use_cache=False).logits


@torch.inference_mode()
def states(lm: FrozenLM, ids: Tensor = IDS) -> list[Tensor]:
    """After every block, edits included: hooks run in the order in which they were registered."""
    found: dict[int, Tensor] = {}
    with record(dict(enumerate(lm.blocks)), found.__setitem__):
        lm.decoder(input_ids=ids, use_cache=False)
    return [found[k] for k in range(lm.n_layers)]


def unit(v: Tensor) -> Tensor:
    return v / v.norm()


def test_adding_zero_is_bit_equal(lm: FrozenLM) -> None:
    before = logits(lm)
    with edit({block: torch.zeros(32) for block in lm.blocks}):
        assert torch.equal(logits(lm), before)


def test_add_leaves_earlier_blocks_untouched_and_moves_its_own_output_by_delta(lm: FrozenLM) -> None:
    before = states(lm)
    with edit({lm.blocks[1]: DELTA}):
        after = states(lm)
        steered = logits(lm)
    assert torch.equal(after[0], before[0])
    assert torch.equal(after[1], before[1] + DELTA)  # at every token of every row
    assert not torch.allclose(after[2], before[2])
    assert not torch.allclose(steered, logits(lm))


def test_add_does_not_change_the_blocks_own_tensor_in_place(lm: FrozenLM) -> None:
    seen: list[Tensor] = []
    kept: list[Tensor] = []

    def keep(_module: nn.Module, _args: Any, output: Any) -> None:
        seen.append(output if isinstance(output, Tensor) else output[0])
        kept.append(seen[-1].clone())

    handle = lm.blocks[1].register_forward_hook(keep)
    with edit({lm.blocks[1]: DELTA}):
        logits(lm)
    handle.remove()
    assert torch.equal(seen[0], kept[0])


def test_one_delta_per_row_acts_row_by_row(lm: FrozenLM) -> None:
    deltas = torch.stack([DELTA, -3 * DELTA])
    before = states(lm)
    with edit({lm.blocks[0]: deltas}):
        after = states(lm)
        both = logits(lm)
    assert torch.equal(after[0], before[0] + deltas[:, None, :])
    for row, delta in enumerate(deltas):
        with edit({lm.blocks[0]: delta}):
            alone = logits(lm)[row]
        # The same products in the same shapes, so nearly the same bits; another row's delta would differ by 1.
        torch.testing.assert_close(both[row], alone, rtol=0, atol=1e-4)


def test_deltas_on_several_blocks_add_up(tiny_lm: FrozenLM) -> None:
    with edit({tiny_lm.blocks[0]: DELTA, tiny_lm.blocks[2]: -DELTA}):
        both = states(tiny_lm)
    with edit({tiny_lm.blocks[0]: DELTA}), edit({tiny_lm.blocks[2]: -DELTA}):
        assert all(map(torch.equal, both, states(tiny_lm)))
    with edit({tiny_lm.blocks[0]: DELTA}):
        assert torch.equal(both[2], states(tiny_lm)[2] - DELTA)


def test_a_delta_is_cast_to_the_dtype_of_the_states(make_lm: MakeLM) -> None:
    lm = make_lm()
    lm.model.to(torch.bfloat16)
    before = states(lm)
    with edit({lm.blocks[1]: DELTA.double()}):
        after = states(lm)
    assert after[1].dtype == torch.bfloat16
    assert torch.equal(after[1], before[1] + DELTA.bfloat16())


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
@pytest.mark.parametrize("row_by_row", [False, True])
@torch.inference_mode()
def test_greedy_steered_generation_with_the_kv_cache_equals_without(
    make_lm: MakeLM, operator: str, architecture: str, row_by_row: bool
) -> None:
    lm = make_lm(architecture)

    def generate(use_cache: bool) -> tuple[Tensor, Tensor]:
        """New tokens `[B, T]` and the logits `[T, B, V]` they were chosen from: a random LM may repeat a token."""
        options = {"max_new_tokens": 20, "do_sample": False, "use_cache": use_cache, "eos_token_id": None}
        options |= {"return_dict_in_generate": True, "output_logits": True}
        out = lm.model.generate(IDS, attention_mask=torch.ones_like(IDS), **options)
        return out.sequences[:, IDS.shape[1] :], torch.stack(out.logits)

    plain, plain_logits = generate(True)
    with edit({lm.blocks[1]: torch.stack([DELTA, 1 - DELTA]) if row_by_row else DELTA}, OPERATORS[operator]):
        (cached, cached_logits), (fresh, fresh_logits) = generate(True), generate(False)
    assert torch.equal(cached, fresh)
    torch.testing.assert_close(cached_logits, fresh_logits, rtol=0, atol=2e-4)  # summed in another order
    assert ((cached_logits - plain_logits).abs().amax(2) > 0.02).all()  # every row was steered, at every step
    assert torch.equal(generate(True)[0], plain)


@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
@pytest.mark.parametrize("tokens", ["prompt", "generated"])
@pytest.mark.parametrize("use_cache", [True, False])
@torch.inference_mode()
def test_steering_the_prompt_or_the_generated_tokens_alone_is_a_masked_pass_over_the_whole_text(
    make_lm: MakeLM, operator: str, architecture: str, tokens: Tokens, use_cache: bool
) -> None:
    lm, how = make_lm(architecture), OPERATORS[operator]
    options = {"max_new_tokens": 12, "do_sample": False, "use_cache": use_cache, "eos_token_id": None}
    options |= {"return_dict_in_generate": True, "output_logits": True}
    for ids in (IDS, IDS[:, :1]):  # also a prompt of one token, as long as each step after it
        with edit({lm.blocks[1]: DELTA}, how, tokens):
            out = lm.model.generate(ids, attention_mask=torch.ones_like(ids), **options)
        mask = torch.zeros_like(out.sequences)
        mask[:, : ids.shape[1]] = 1
        with edit({lm.blocks[1]: DELTA}, how, mask if tokens == "prompt" else 1 - mask):
            whole = lm.model(out.sequences).logits[:, ids.shape[1] - 1 : -1]
        torch.testing.assert_close(torch.stack(out.logits, 1), whole, rtol=0, atol=1e-4)
        with edit({lm.blocks[1]: DELTA}, how):
            everywhere = lm.model(out.sequences).logits[:, ids.shape[1] - 1 : -1]
        assert ((everywhere - whole)[:, 1:].abs().amax(2) > 1e-3).all()  # ten times the tolerance


@pytest.mark.parametrize("operator", OPERATORS)
def test_each_row_is_edited_by_its_own_vector_and_a_row_of_zeros_stays_bit_by_bit(lm: FrozenLM, operator: str) -> None:
    ids = torch.cat([IDS, IDS[:1]])
    vectors = torch.stack([DELTA, torch.zeros(32), 1 - DELTA])
    before = states(lm, ids)[1]
    for mask in (None, torch.tensor([[0, 1, 1, 0, 0, 0]]).expand(3, -1)):
        tokens = "all" if mask is None else mask
        with edit({lm.blocks[1]: vectors}, OPERATORS[operator], tokens):
            together = states(lm, ids)[1]
        assert torch.equal(together[1], before[1])
        for row in (0, 2):
            with edit(
                {lm.blocks[1]: vectors[row]}, OPERATORS[operator], "all" if mask is None else mask[row : row + 1]
            ):
                alone = states(lm, ids[row : row + 1])[1][0]
            torch.testing.assert_close(together[row], alone, rtol=1e-5, atol=1e-4)
            touched = (together[row] != before[row]).any(-1)
            assert torch.equal(touched, torch.ones(6, dtype=bool) if mask is None else mask[row].bool())


def components(h: Tensor, v: Tensor) -> Tensor:
    return h @ unit(v)


def test_what_is_clamped_has_the_component_that_was_asked_for_whatever_it_was(lm: FrozenLM) -> None:
    before = states(lm)[1]
    for length in (3.0, -0.5, 40.0):
        with edit({lm.blocks[1]: length * unit(DELTA)}, clamp):
            after = states(lm)[1]
        found = components(after, DELTA)
        tolerance = 1e-5 * before.norm(dim=-1).max() + 1e-5 * abs(length)
        torch.testing.assert_close(found, torch.full_like(found, length), rtol=0, atol=float(tolerance))
        assert (components(before, DELTA) - length).abs().max() > 0.1
        other = torch.ones(32) - unit(DELTA) * components(torch.ones(32), DELTA)  # what is orthogonal stays
        torch.testing.assert_close(after @ other, before @ other, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("operator", [plus, clamp, without])
def test_an_operator_that_keeps_the_norm_changes_the_way_and_not_the_length(lm: FrozenLM, operator: Operator) -> None:
    before = states(lm)[1]
    with edit({lm.blocks[1]: DELTA}, operator):
        free = states(lm)[1]
    with edit({lm.blocks[1]: DELTA}, keeping_norm(operator)):
        kept = states(lm)[1]
    torch.testing.assert_close(kept.norm(dim=-1), before.norm(dim=-1), rtol=1e-5, atol=1e-6)
    assert not torch.allclose(free.norm(dim=-1), before.norm(dim=-1), rtol=1e-3)
    torch.testing.assert_close(unit_rows(kept), unit_rows(free), rtol=1e-4, atol=1e-5)


def unit_rows(h: Tensor) -> Tensor:
    return h / h.norm(dim=-1, keepdim=True)


def test_only_what_is_taken_out_does_not_heed_how_strongly() -> None:
    assert {name for name, operator in OPERATORS.items() if not heeds_strength(operator)} == {"without"}


def test_an_operator_is_found_by_its_name_and_one_that_there_is_not_is_refused_with_what_was_meant() -> None:
    assert operator_called("clamp") is clamp
    with pytest.raises(ProbeError, match="did you mean clamp"):
        operator_called("clmp")
    with pytest.raises(ProbeError, match="--plugin os admits others"):
        operator_called("os.system")


def test_without_a_direction_no_component_along_it_is_left(lm: FrozenLM) -> None:
    a = unit(DELTA + 1)
    before = states(lm)
    with edit({lm.blocks[1]: a}, without):
        after = states(lm)
    # float32 rounds each of the 32 products to 1e-7 of a state of norm |h|.
    assert ((after[1] @ a).abs() <= 1e-5 * before[1].norm(dim=-1)).all()
    assert ((before[1] @ a).abs() > 1e-3 * before[1].norm(dim=-1)).any()
    assert torch.equal(after[0], before[0])
    other = unit(torch.ones(32) - a * (torch.ones(32) @ a))  # what is orthogonal to a stays
    torch.testing.assert_close(after[1] @ other, before[1] @ other, rtol=1e-4, atol=1e-4)


def test_taking_out_twice_is_taking_out_once(tiny_lm: FrozenLM) -> None:
    a = unit(DELTA + 1)
    with edit({tiny_lm.blocks[1]: a}, without):
        once = states(tiny_lm)[1]
        with edit({tiny_lm.blocks[1]: a}, without):
            twice = states(tiny_lm)[1]
    torch.testing.assert_close(twice, once, rtol=1e-5, atol=1e-5)


def enter(lm: FrozenLM, name: str, *blocks: Any) -> AbstractContextManager[None]:
    if name == "record":
        return record(dict(enumerate(blocks)), lambda *_: None)
    return edit({block: DELTA for block in blocks}, OPERATORS[name])


@pytest.mark.parametrize("name", ["record", *OPERATORS])
def test_an_exception_inside_the_body_leaves_no_hook_and_the_same_logits(lm: FrozenLM, name: str) -> None:
    before, hooks = logits(lm), n_hooks(lm.model)
    with pytest.raises(KeyboardInterrupt), enter(lm, name, *lm.blocks):
        assert n_hooks(lm.model) == hooks + 3
        raise KeyboardInterrupt
    assert n_hooks(lm.model) == hooks
    assert torch.equal(logits(lm), before)


@pytest.mark.parametrize("name", [*OPERATORS])
def test_an_exception_inside_the_forward_pass_leaves_no_hook(lm: FrozenLM, name: str) -> None:
    before, hooks = logits(lm), n_hooks(lm.model)
    with pytest.raises(IndexError), enter(lm, name, *lm.blocks):
        logits(lm, torch.tensor([[10**6]]))
    assert n_hooks(lm.model) == hooks
    assert torch.equal(logits(lm), before)


def test_an_exception_in_the_reader_is_not_swallowed_and_leaves_no_hook(lm: FrozenLM) -> None:
    def read(k: int, h: Tensor) -> None:
        raise MemoryError

    hooks = n_hooks(lm.model)
    with pytest.raises(MemoryError), record(dict(enumerate(lm.blocks)), read):
        logits(lm)
    assert n_hooks(lm.model) == hooks


@pytest.mark.parametrize("name", ["record", *OPERATORS])
def test_a_block_that_cannot_be_hooked_leaves_no_hook_on_the_others(make_lm: MakeLM, name: str) -> None:
    lm = make_lm()

    class Refuses(nn.Module):
        def register_forward_hook(self, *_: Any, **__: Any) -> Any:
            raise RuntimeError("no hooks here")

    for bad, error in ((None, AttributeError), (Refuses(), RuntimeError)):
        with pytest.raises(error), enter(lm, name, lm.blocks[0], bad, lm.blocks[1]):
            pytest.fail("the body must not run")
        assert n_hooks(lm.model) == 0


def test_record_stops_after_the_deepest_block_and_reads_each_block_once(lm: FrozenLM) -> None:
    ran: list[int] = []
    read: list[int] = []
    handles = [b.register_forward_pre_hook(lambda *_, k=k: ran.append(k)) for k, b in enumerate(lm.blocks)]
    with record({1: lm.blocks[1], 0: lm.blocks[0]}, lambda k, _: read.append(k)):
        logits(lm)
        pytest.fail("the statement of the stopped forward pass does not return")
    for handle in handles:
        handle.remove()
    assert ran == read == [0, 1]


class TupleBlock(nn.Module):
    """Returns its state and something else, as the blocks of some families do, in some versions of transformers."""

    def forward(self, h: Tensor) -> tuple[Tensor, list[str], None]:
        return 2 * h, ["attention"], None


@pytest.mark.parametrize("name", [*OPERATORS])
def test_blocks_that_return_a_tuple_keep_the_rest_of_it(tiny_lm: FrozenLM, name: str) -> None:
    block, h = TupleBlock(), torch.arange(192.0).view(2, 3, 32)
    with enter(tiny_lm, name, block):
        edited, rest, nothing = block(h)
    assert (rest, nothing) == (["attention"], None)
    assert not torch.equal(edited, 2 * h)
    whole = nn.Identity()
    with enter(tiny_lm, name, whole):
        assert torch.equal(whole(2 * h), edited)
