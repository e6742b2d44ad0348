"""Keyed noise samples from the softmax, and depends on nothing but seed, prompt and step."""

import torch
from scipy.stats import chisquare

from probe.lm.frozen import FrozenLM
from probe.lm.sampling import KeyedNoise

LOGITS = torch.tensor([2.0, 1.0, 0.0, -1.0, 0.5])


def test_the_draws_follow_the_softmax_at_the_temperature() -> None:
    for temperature in (0.7, 1.5):
        noise = KeyedNoise(["p"] * 8000, range(8000), temperature)
        drawn = noise(torch.empty(8000, 0), LOGITS.expand(8000, -1)).argmax(-1)
        expected = 8000 * (LOGITS / temperature).softmax(-1)
        assert chisquare(drawn.bincount(minlength=5), expected.double() / expected.double().sum() * 8000).pvalue > 1e-3


def test_steps_are_independent_draws() -> None:
    noise = KeyedNoise(["p"], [0], 1.0)
    drawn = torch.tensor([noise(torch.empty(1, 0), LOGITS[None]).argmax().item() for _ in range(4000)])
    expected = 4000 * LOGITS.double().softmax(-1)
    assert chisquare(drawn.bincount(minlength=5), expected).pvalue > 1e-3
    joint = 5 * drawn[:-1] + drawn[1:]
    p = LOGITS.double().softmax(-1)
    expected = torch.outer(p, p).flatten() * len(joint)
    assert chisquare(joint.bincount(minlength=25), expected).pvalue > 1e-3


def test_rows_of_one_seed_and_prompt_share_their_noise_and_others_do_not() -> None:
    noise = KeyedNoise(["a", "b", "a", "a"], [1, 1, 1, 2], 1.0)
    for _ in range(3):
        scores = noise(torch.empty(4, 0), torch.zeros(4, 50))
        assert torch.equal(scores[0], scores[2])
        assert not torch.equal(scores[0], scores[1])
        assert not torch.equal(scores[0], scores[3])


def test_a_text_does_not_depend_on_the_batch_nor_on_the_global_random_state(tiny_lm: FrozenLM) -> None:
    prompts = ["Tell of a fox.", "Tell of an owl that hides.", "Sing."]
    torch.manual_seed(0)
    expected = torch.rand(2)
    torch.manual_seed(0)
    together = tiny_lm.generate(prompts, 20, 0.8, seed=3)
    assert torch.equal(torch.rand(2), expected)
    assert [tiny_lm.generate([prompt], 20, 0.8, seed=3)[0] for prompt in prompts] == together
    assert tiny_lm.generate(prompts[::-1], 20, 0.8, seed=3) == together[::-1]
    assert tiny_lm.generate(prompts[:1] * 3, 20, 0.8, seed=[3, 4, 3]) != together[:1] * 3
    assert len(set(tiny_lm.generate(prompts[:1] * 3, 20, 0.8, seed=[3, 4, 3]))) == 2
