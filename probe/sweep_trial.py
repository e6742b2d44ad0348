"""A sweep as a trial: searched on some held-out prompts, judged once on others, and random directions get the same search."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor

from probe.activations import ActivationExtractor
from probe.bootstrap import Estimate
from probe.data import ContrastData, Row
from probe.directions import Direction, mean_difference, random_directions
from probe.errors import ProbeError
from probe.lm import FrozenLM
from probe.spec import Budget
from probe.steering import Arm, Sampling, SteeredText, Witness, measure, write
from probe.sweep import Cell, Ground, Setting, recommend, share_of_gap, sweep


@dataclass(frozen=True)
class HeldOut:
    """Where is searched and where is judged; no group is in both, nor in what the direction learned from."""

    search: Ground
    test: Ground
    creative: Sequence[str]
    """The creative counterpart of each test prompt."""
    groups: Sequence[str]
    """Of each test prompt."""
    cosine: float
    """Of the direction with the one that scores the test, from other groups, at the layer where both read."""


@dataclass(frozen=True)
class Searched:
    """What the search found along the direction, and along each random one."""

    cells: list[Cell]
    plain: dict[str, float]
    recommended: Cell
    random: list[tuple[Tensor, Cell]]


@dataclass(frozen=True)
class Judged:
    """The recommended setting on prompts that were not searched on."""

    texts: dict[str, list[SteeredText]]
    """`uncreative`, `steered` and `creative`."""
    share: Estimate
    """Of the way from uncreative to creative that steering goes; by the witness, else by the clean re-score."""
    random_shares: list[float]
    """The same for random directions, each at the setting that its own search recommends."""


def held_out(
    lm: FrozenLM, direction: Direction, data: ContrastData, how: Sampling, witness: Witness, n_search: int, n_test: int
) -> HeldOut:
    """Half of the validation groups give the prompts to search on, the other half and the test groups those to judge on.

    Each half scores the other's texts: with the mean difference of groups that gave no prompt and trained no direction.
    """
    validation, test = data.rows["validation"], data.rows["test"]
    groups = sorted({row.group for row in validation if row.pair >= 0})
    if len(groups) < 2:
        raise ProbeError(
            f"expected at least 2 validation groups with pairs, found {len(groups)}; hold out more groups."
        )
    halves = groups[: len(groups) // 2], groups[len(groups) // 2 :]
    layer = direction.chosen
    assert layer is not None
    extractor = ActivationExtractor(lm, [layer])
    others = [_other(extractor, [r for r in validation if r.group in half], direction) for half in halves]
    searched = _pairs([r for r in validation if r.group in halves[0]])
    judged = _pairs([r for r in validation if r.group in halves[1]]) + _pairs(test)
    searched, judged = _spread(searched)[:n_search], _spread(judged)[:n_test]
    return HeldOut(
        Ground(lm, direction, [dull.prompt for _, dull in searched], others[1], how, witness),
        Ground(lm, direction, [dull.prompt for _, dull in judged], others[0], how, witness),
        [bold.prompt for bold, _ in judged],
        [dull.group for _, dull in judged],
        float(direction.at(layer) @ others[0]),
    )


def _pairs(rows: Sequence[Row]) -> list[tuple[Row, Row]]:
    sides = [row for row in rows if row.pair >= 0]
    return list(zip(sides[::2], sides[1::2], strict=True))


def _spread(pairs: Sequence[tuple[Row, Row]]) -> list[tuple[Row, Row]]:
    """A first pair of every group before a second of any."""
    seen: dict[str, int] = {}
    order = []
    for pair in pairs:
        seen[pair[0].group] = seen.get(pair[0].group, 0) + 1
        order.append(seen[pair[0].group])
    return [pairs[i] for i in np.argsort(order, kind="stable")]


def _other(extractor: ActivationExtractor, rows: Sequence[Row], direction: Direction) -> Tensor:
    """Mean difference `[D]` of these pairs, read as the direction was."""
    span, pooling = direction.provenance["span"], direction.provenance["pooling"]
    sides = [side for pair in _pairs(rows) for side in pair]
    h = extractor([side.passage(span) for side in sides]).pooled(pooling)
    return mean_difference(torch.stack([h[1::2].mean(0), h[::2].mean(0)]))[0][0]


def search(
    held_out: HeldOut,
    layers: Sequence[int],
    strengths: Sequence[float],
    budget: Budget,
    n_random: int,
    seed: int,
    console: Console,
) -> Searched:
    """Sweeps along the direction, and in the same way along random ones of equal norm."""
    settings = [Setting(layer, strength) for layer in layers for strength in strengths]
    ground, direction = held_out.search, held_out.search.direction
    n = len(settings) * len(ground.prompts)
    console.print(
        f"searching {len(settings)} settings on {len(ground.prompts)} prompts: {n} texts, {n_random} times more for the null"
    )
    cells, plain = sweep(ground, direction.vectors, settings, budget, console.is_terminal)
    null = random_directions(n_random, direction.layers, direction.vectors.shape[1], seed)
    random = [
        (vectors, recommend(sweep(ground, vectors, settings, budget)[0]))
        for vectors in track(null, "random directions", disable=not console.is_terminal)
    ]
    return Searched(cells, plain, recommend(cells), random)


def judge(held_out: HeldOut, searched: Searched, console: Console) -> Judged:
    """Judges the recommended setting, and each random direction's own, on the prompts that were not searched on."""
    ground = held_out.test
    best, vectors = searched.recommended.setting, ground.direction.vectors
    console.print(f"judging on {len(ground.prompts)} other prompts, {2 + len(searched.random)} times")
    arms = [Arm("uncreative"), ground.arm(best, vectors, "steered")]
    arms += [ground.arm(cell.setting, v, f"random {i}") for i, (v, cell) in enumerate(searched.random)]
    uncreative, steered, *random = ground.texts(arms, console.is_terminal)
    asked = [(prompt, Arm("creative")) for prompt in held_out.creative]
    layer = ground.direction.chosen
    assert layer is not None
    creative = measure(
        ground.lm, asked, write(ground.lm, asked, ground.how), ground.how, layer, ground.other, ground.witness
    )
    told = "score" if ground.witness == "none" else "inventive_share"

    def share(texts: Sequence[SteeredText]) -> Estimate:
        return share_of_gap(uncreative, texts, creative, held_out.groups, told)

    texts = {"uncreative": uncreative, "steered": steered, "creative": creative}
    return Judged(texts, share(steered), [share(arm).value for arm in random])
