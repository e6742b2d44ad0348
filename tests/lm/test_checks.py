"""A model is asked whether it is what the project takes it for: what is not is refused, or done another way, and said."""

import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tiny import ARCHITECTURES, HYBRIDS, build_model, build_tokenizer, n_hooks
from torch import nn

from probe.activations.extractor import ActivationExtractor
from probe.data.reading import Passage
from probe.errors import ProbeError
from probe.lm.checks import CHECKS, examine
from probe.lm.frozen import FrozenLM
from probe.lm.spec import LMSpec
from probe.steering.arms import Arm, write
from probe.steering.settings import Sampling

MakeLM = Callable[..., FrozenLM]
PROMPTS = ["Write.", "Tell me of a grey hen and of the sea.", "x"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("architecture", sorted({**ARCHITECTURES, **HYBRIDS} - {"recurrent_gemma": 0}.keys()))
def test_a_true_model_passes_every_check_in_either_precision(
    make_lm: MakeLM, architecture: str, dtype: torch.dtype
) -> None:
    lm = make_lm(architecture)
    lm.model.to(dtype)
    before = n_hooks(lm.model)
    with warnings.catch_warnings(action="error"):
        assert not {check.name: found for check in CHECKS if (found := check.problem(lm))}
    assert n_hooks(lm.model) == before


@pytest.mark.parametrize(
    ("architecture", "says"),
    [
        ("gemma3n_text", "in Gemma3nForCausalLM its block 0 gives [4, 1, 11, 32] for one text of 11 tokens"),
        ("mllama", "in MllamaForCausalLM its block 1 runs 0 times while a text is read"),
    ],
)
def test_a_model_without_one_state_a_token_after_every_block_is_refused_when_it_is_loaded(
    make_lm: MakeLM, architecture: str, says: str
) -> None:
    with pytest.raises(ProbeError) as caught:
        examine(make_lm(architecture))
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_looped_model_is_refused(make_lm: MakeLM) -> None:
    lm = make_lm()
    once = lm.decoder.forward
    lm.decoder.forward = lambda **inputs: (once(**inputs), once(**inputs))[1]
    with pytest.raises(ProbeError, match="block 0 runs 2 times"):
        examine(lm)


def test_a_model_that_mixes_the_texts_of_a_batch_is_refused(make_lm: MakeLM) -> None:
    lm = make_lm()
    lm.blocks[1].register_forward_hook(lambda _m, _a, h: h + 0.3 * h.mean(0, keepdim=True))
    with pytest.raises(ProbeError, match="a text's states depend on the texts beside it"):
        examine(lm)


def test_a_model_that_fails_on_a_short_text_is_refused_in_one_sentence(make_lm: MakeLM) -> None:
    lm = make_lm()
    lm.blocks[1].mlp = nn.Linear(7, 7)
    with pytest.raises(ProbeError, match="in LlamaForCausalLM reading a short text fails \\(mat1 and mat2"):
        examine(lm)
    with pytest.raises(ProbeError, match="expected a tokenizer of at most 90 tokens"):
        FrozenLM(build_model(vocab_size=90), build_tokenizer())


@pytest.mark.parametrize("architecture", ["rwkv", "recurrent_gemma"])
def test_where_padding_changes_a_text_texts_are_written_one_by_one_and_this_is_said(
    tmp_path: Path, architecture: str
) -> None:
    model, tokenizer = build_model(architecture), build_tokenizer()
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.warns(UserWarning, match="depends on the padding before its prompt, so texts are written one by one"):
        lm = FrozenLM.load(LMSpec(str(tmp_path), device="cpu"))
    delta = torch.linspace(-0.5, 0.5, 32)
    asked = [(prompt, Arm("steered", {1: delta * i})) for i, prompt in enumerate(PROMPTS)]
    alone = [write(lm, [one], Sampling(8))[0] for one in asked]
    assert write(lm, asked, Sampling(8)) == alone
    assert len(set(alone)) == len(alone)
    lm.generate(PROMPTS[:1] * 2, 4, 0.0, 0)  # of one length: nothing is padded
    with pytest.raises(ProbeError, match="found 3 of unlike length; ask them one at a time"):
        lm.generate(PROMPTS, 4, 0.0, 0)
    if architecture == "rwkv":  # the other one's texts are too short here to show the difference
        lm.writes_in_batches = True
        assert write(lm, asked, Sampling(8)) != alone


def test_a_block_of_modernbert_is_read_though_its_decoder_is_a_part_of_the_head(make_lm: MakeLM) -> None:
    lm = make_lm("modernbert-decoder")
    assert isinstance(lm.model.get_decoder(), nn.Linear)
    assert ActivationExtractor(lm, [1])([Passage("a hen", "It slept.")]).pooled("mean").isfinite().all()


def test_activations_that_are_not_finite_are_left_to_who_can_say_what_to_do(make_lm: MakeLM) -> None:
    lm = make_lm()
    with torch.no_grad():
        lm.blocks[0].mlp.down_proj.weight.fill_(torch.inf)
    examine(lm)
    with pytest.raises(ProbeError, match="not finite"):
        ActivationExtractor(lm)([Passage("a hen")])
