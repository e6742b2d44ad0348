"""What a hook reads is the residual stream, on every decoder-only architecture we claim to support.

Tolerances: the same computation twice must be equal to the bit. Where the shape differs (batch size, padding), matrix
products sum in another order; states are of size 1 to 100, float32 keeps 1e-7 of that, and up to three blocks, one of
them behind a softmax, multiply it: 1e-4 relative to the largest state. A wrong position, mask or row gives above 1e-2.
"""

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from tiny import ARCHITECTURES, n_hooks
from torch import Tensor, nn

import probe.activations.extractor
from probe.activations.extractor import ActivationExtractor
from probe.activations.pooling import POOLINGS, pool
from probe.data.reading import Passage
from probe.lm.frozen import FrozenLM
from probe.lm.hooks import record
from probe.lm.trees import plan_rows

PASSAGES = [
    Passage("a cat", "It slept on the warm stove all day long."),
    Passage("a tale of two hens", None),
    Passage("x", "The sea, the sea!"),
    Passage("Write about rain.", "ok"),
    Passage("a cat", "naïve 猫 🐈 café"),
]


@pytest.fixture(scope="module", params=sorted(ARCHITECTURES))
def lm(request: pytest.FixtureRequest, make_lm: Callable[..., FrozenLM]) -> FrozenLM:
    return make_lm(request.param)


def read_all(lm: FrozenLM, **inputs: Tensor) -> list[Tensor]:
    states: dict[int, Tensor] = {}
    with torch.inference_mode(), record(dict(enumerate(lm.blocks)), states.__setitem__):
        lm.decoder(**inputs, use_cache=False)
    return [states[k] for k in range(lm.n_layers)]


def ids(lm: FrozenLM, text: str = "Once upon a time there was a small grey hen") -> Tensor:
    return lm.tokenizer(text, return_tensors="pt")["input_ids"]


def final_norm(lm: FrozenLM) -> nn.Module:
    names = ("norm", "final_norm", "ln_f", "final_layer_norm", "final_layernorm", "norm_f")
    (norm,) = [module for name, module in lm.decoder.named_children() if name in names]
    return norm


def assert_close(got: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-4 * expected.abs().max().item())


@torch.inference_mode()
def test_hook_values_equal_hidden_states_except_after_the_last_block(lm: FrozenLM) -> None:
    hidden = lm.model(input_ids=ids(lm), use_cache=False, output_hidden_states=True).hidden_states
    states = read_all(lm, input_ids=ids(lm))
    # Mamba leaves the embeddings out of `hidden_states`, so block k is H[k] there and H[k + 1] elsewhere.
    blocks_of_hf = [*hidden[:-1]] if lm.model.config.model_type == "mamba" else [*hidden[1:-1]]
    for state, expected in zip(states, blocks_of_hf, strict=False):
        assert torch.equal(state, expected)
    assert torch.equal(final_norm(lm)(states[-1]), hidden[-1])
    assert not torch.allclose(states[-1], hidden[-1])
    assert len({tuple(state.flatten()[:4].tolist()) for state in states}) == lm.n_layers == 3


@torch.inference_mode()
def test_hook_values_equal_each_block_called_by_hand(lm: FrozenLM) -> None:
    calls: dict[int, tuple[tuple[Any, ...], dict[str, Any]]] = {}

    def capture(k: int, _block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        calls[k] = (tuple(a.clone() if isinstance(a, Tensor) else a for a in args), kwargs)

    handles = [b.register_forward_pre_hook(partial(capture, k), with_kwargs=True) for k, b in enumerate(lm.blocks)]
    states = read_all(lm, input_ids=ids(lm))
    for handle in handles:
        handle.remove()
    for k, block in enumerate(lm.blocks):
        args, kwargs = calls[k]
        output = block(*args, **kwargs)
        assert torch.equal(states[k], output if isinstance(output, Tensor) else output[0])


def test_pooled_activations_do_not_depend_on_batch_size_order_or_right_padding(
    lm: FrozenLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    together = ActivationExtractor(lm)(PASSAGES)
    backwards = ActivationExtractor(lm)(PASSAGES[::-1])[torch.arange(len(PASSAGES)).flip(0)]
    monkeypatch.setattr(lm, "batch_tokens", 100)
    monkeypatch.setattr(probe.activations.extractor, "plan_rows", partial(plan_rows, pass_cost=1))
    by_two = ActivationExtractor(lm)
    read_by_two = by_two(PASSAGES)
    assert 1 < by_two.reads.passes < len(PASSAGES)
    for pooling in POOLINGS:
        expected = together.pooled(pooling)
        assert_close(backwards.pooled(pooling), expected)
        assert_close(read_by_two.pooled(pooling), expected)
    for row, encoded in enumerate(
        lm.encoder.encode(PASSAGES)
    ):  # the oracle: one text, no padding, every block to the end
        mask = torch.tensor([encoded.pooled]).long()
        for k, h in enumerate(read_all(lm, input_ids=torch.tensor([encoded.ids]))):
            for pooling, expected in zip(POOLINGS, pool(h, mask), strict=True):
                assert_close(together.at(k, pooling)[row], expected[0])


@torch.inference_mode()
def test_left_padding_with_position_ids_gives_the_same_states_of_real_tokens(lm: FrozenLM) -> None:
    real = ids(lm)
    pads = torch.zeros(1, 5, dtype=torch.long)
    inputs = {
        "input_ids": torch.cat([pads, real], 1),
        "attention_mask": torch.cat([pads, torch.ones_like(real)], 1),
    }
    # BLOOM and MPT (ALiBi) and Mamba know no positions: their mask alone must do.
    if "position_ids" in inspect.signature(lm.decoder.forward).parameters:
        inputs["position_ids"] = torch.cat([pads, torch.arange(real.shape[1])[None]], 1)
    for padded, alone in zip(read_all(lm, **inputs), read_all(lm, input_ids=real), strict=True):
        assert_close(padded[:, 5:], alone)


@torch.inference_mode()
def test_stopping_early_leaves_a_later_full_forward_bit_equal_and_no_hook_behind(lm: FrozenLM) -> None:
    before, hooks = lm.model(input_ids=ids(lm)).logits, n_hooks(lm.model)
    ran: list[int] = []
    handles = [b.register_forward_pre_hook(lambda *_, k=k: ran.append(k)) for k, b in enumerate(lm.blocks)]
    ActivationExtractor(lm, [1])(PASSAGES[:1])
    for handle in handles:
        handle.remove()
    assert ran == [0, 1]
    assert n_hooks(lm.model) == hooks
    assert torch.equal(lm.model(input_ids=ids(lm)).logits, before)
