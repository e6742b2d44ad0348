"""How much steering a model bears: a strength is stated by how far it moves what the model says, not by a length in its states.

A class gap is no dose: at one block two gaps change a word, at another they leave no English. The KL divergence of the steered
next-token distribution from the clean one, over texts that the clean model wrote, is the same measure everywhere.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from probe.data.reading import Passage
from probe.directions.direction import Direction
from probe.errors import ProbeError
from probe.lm.frozen import FrozenLM
from probe.progress import track
from probe.steering.arms import Arm, steered, write
from probe.steering.settings import Sampling

SAFE_KL = 0.25
"""Nats per token: one dose. Measured on SmolLM2-135M-Instruct, where twice as much begins to cost sense (docs/results.md)."""
CALIBRATED_ON = 4
"""Prompts whose plain texts a dose is measured on."""
PROMPTS = ("Write a story about a town.", "Write a story about two sisters.", "Write a story about a letter.")
"""Those of whoever has none of their own."""
CLOSE_ENOUGH = 0.1
"""Relative error of the KL at which the search ends."""


def calibrate(
    lm: FrozenLM, vectors: Mapping[int, Tensor], texts: Sequence[Passage], target: float = SAFE_KL, steps: int = 6
) -> dict[int, float]:
    """Block -> the absolute lambda `[]` at which steering along its unit vector `[D]` costs `target` nats per token.

    Args:
        lm: The model.
        vectors: Block -> unit vector `[D]`; each is steered alone.
        texts: What the clean model wrote, after its prompts.
        target: Mean KL(steered || clean) over the tokens of the texts.
        steps: How often a lambda is tried, at most.
    """
    clean = lm.logprobs(texts)
    width = math.sqrt(lm.hidden_size)
    of_layers = track(vectors.items(), "measuring a dose at", len(vectors), "layers")
    return {layer: _solve(lm, layer, a, texts, clean, target, steps, 0.1 * width) for layer, a in of_layers}


def with_dose(
    lm: FrozenLM, direction: Direction, layers: Sequence[int], prompts: Sequence[str], how: Sampling
) -> Direction:
    """The direction with the dose of these blocks in its provenance, measured where it is not known yet of this model.

    Args:
        lm: The model.
        direction: What is steered with.
        layers: Blocks whose dose is wanted, each steered alone.
        prompts: The clean model answers them, and what it writes is what the KL is taken over.
        how: How it writes.
    """
    same_model = direction.provenance.get("lm_fingerprint", lm.fingerprint) == lm.fingerprint
    known = dict(direction.provenance.get("dose", {}).get("of_layer", {})) if same_model else {}
    missing = [layer for layer in layers if str(layer) not in known]
    if missing:
        plain = write(lm, [(prompt, Arm("plain")) for prompt in prompts], how, progress=True)
        texts = [Passage(prompt, text) for prompt, text in zip(prompts, plain, strict=True) if text.strip()]
        if not texts:
            raise ProbeError(
                "the unsteered model answered nothing, so no dose can be measured; give --strength_unit norm."
            )
        solved = calibrate(lm, {layer: direction.at(layer) for layer in missing}, texts)
        known |= {str(layer): value for layer, value in solved.items()}
    return replace(direction, provenance={**direction.provenance, "dose": {"kl": SAFE_KL, "of_layer": known}})


def in_words(direction: Direction, layers: Sequence[int]) -> str:
    """What one dose of these blocks is."""
    dose = direction.provenance["dose"]
    lengths = ", ".join(f"{dose['of_layer'][str(layer)]:.3g} at layer {layer}" for layer in layers)
    return f"One dose is {lengths}: it costs about {dose['kl']:g} nats a token (KL from the unsteered model)."


def divergence(lm: FrozenLM, arm: Arm, texts: Sequence[Passage], clean: Sequence[Tensor]) -> float:
    """Mean KL(steered || clean) in nats over the texts' tokens; `clean` holds the clean log-probabilities `[n, V]` of each."""
    ours = lm.logprobs(texts, lambda batch: steered(lm, [arm] * len(batch.example), "all"))
    of_token = [(p.exp() * (p - q)).sum(-1) for p, q in zip(ours, clean, strict=True)]
    return float(torch.cat(of_token).mean())


def _solve(
    lm: FrozenLM,
    layer: int,
    a: Tensor,
    texts: Sequence[Passage],
    clean: Sequence[Tensor],
    target: float,
    steps: int,
    start: float,
) -> float:
    """Newton's method on log KL against log lambda, kept between a lambda that is too small and one that is too large.

    KL grows with the square of lambda near 0 (its first derivative vanishes), hence the first slope of 2.
    """
    low, high, value, slope, last = 0.0, math.inf, start, 2.0, None
    for _ in range(steps):
        paid = max(divergence(lm, Arm("dose", {layer: value * a}), texts, clean), 1e-12)
        error = math.log(paid / target)
        if abs(error) < CLOSE_ENOUGH:
            return value
        low, high = (value, high) if error < 0 else (low, value)
        if last is not None and math.log(value) != last[0]:
            slope = min(max((error - last[1]) / (math.log(value) - last[0]), 0.5), 4.0)
        last = (math.log(value), error)
        proposed = value * math.exp(-error / slope)
        inside = low < proposed < high
        value = proposed if inside else math.sqrt(low * high) if low and high < math.inf else proposed
    return low or value
