"""A dose is what it says: the KL of the steered from the clean model, whatever the block and however long its states are."""

import pytest
import torch

from probe.data.reading import Passage
from probe.directions.direction import Direction
from probe.lm.frozen import FrozenLM
from probe.steering.arms import Arm
from probe.steering.dose import CLOSE_ENOUGH, SAFE_KL, calibrate, divergence, with_dose
from probe.steering.settings import Sampling

TEXTS = [Passage("Write a story.", "The lamp stood on the table."), Passage("Write.", "Rain fell.")]


def unit(lm: FrozenLM, seed: int) -> torch.Tensor:
    return torch.nn.functional.normalize(
        torch.randn(lm.hidden_size, generator=torch.Generator().manual_seed(seed)), dim=0
    )


def test_log_probabilities_are_the_models_own_one_text_at_a_time(tiny_lm: FrozenLM) -> None:
    found = tiny_lm.logprobs(TEXTS)
    for passage, ours in zip(TEXTS, found, strict=True):
        (encoded,) = tiny_lm.encoder.encode([passage])
        logits = tiny_lm.model(torch.tensor([encoded.ids])).logits[0].log_softmax(-1)
        at = [i - 1 for i, inside in enumerate(encoded.pooled) if inside]
        torch.testing.assert_close(ours, logits[at], atol=1e-5, rtol=1e-4)


def test_the_divergence_is_that_of_torch_and_nothing_without_steering(tiny_lm: FrozenLM) -> None:
    clean = tiny_lm.logprobs(TEXTS)
    assert divergence(tiny_lm, Arm("none"), TEXTS, clean) == pytest.approx(0, abs=1e-7)
    arm = Arm("some", {1: 2.0 * unit(tiny_lm, 0)})
    from probe.steering.arms import steered

    steered_by_hand = []
    for passage in TEXTS:
        (encoded,) = tiny_lm.encoder.encode([passage])
        with steered(tiny_lm, [arm], "all"):
            logits = tiny_lm.model(torch.tensor([encoded.ids])).logits[0].log_softmax(-1)
        steered_by_hand.append(logits[[i - 1 for i, inside in enumerate(encoded.pooled) if inside]])
    ours, theirs = torch.cat(steered_by_hand), torch.cat(clean)
    expected = torch.nn.functional.kl_div(theirs, ours, reduction="batchmean", log_target=True)
    assert divergence(tiny_lm, arm, TEXTS, clean) == pytest.approx(float(expected), rel=1e-4)


@pytest.mark.parametrize("target", [0.001, 0.05])
def test_a_calibrated_lambda_costs_what_was_asked_at_every_block(tiny_lm: FrozenLM, target: float) -> None:
    vectors = {k: unit(tiny_lm, k) for k in range(tiny_lm.n_layers)}
    clean = tiny_lm.logprobs(TEXTS)
    for layer, value in calibrate(tiny_lm, vectors, TEXTS, target, steps=12).items():
        cost = divergence(tiny_lm, Arm("dose", {layer: value * vectors[layer]}), TEXTS, clean)
        assert cost == pytest.approx(target, rel=1.5 * CLOSE_ENOUGH)


def test_what_the_model_cannot_be_made_to_say_stays_finite(tiny_lm: FrozenLM) -> None:
    (value,) = calibrate(tiny_lm, {0: unit(tiny_lm, 0)}, TEXTS, target=1e4, steps=4).values()
    assert 0 < value < float("inf")


def test_a_dose_of_another_model_is_measured_anew(tiny_lm: FrozenLM) -> None:
    zeros, made = torch.zeros(1), {"dose": {"kl": SAFE_KL, "of_layer": {"1": 7.0}}}
    of_ours, of_another = (
        Direction(
            unit(tiny_lm, 0)[None], [1], zeros + 1, zeros + 1, zeros, zeros + 1, 1, made | {"lm_fingerprint": name}
        )
        for name in (tiny_lm.fingerprint, "another")
    )
    kept, measured = (
        with_dose(tiny_lm, one, [1], ["Write."], Sampling(8)).provenance["dose"]["of_layer"]["1"]
        for one in (of_ours, of_another)
    )
    assert kept == 7.0 != measured > 0
