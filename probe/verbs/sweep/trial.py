"""A sweep as a trial: searched on some held-out prompts, judged once on others, and random directions get the same search."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from probe.directions.direction import Direction, random_directions
from probe.lm.spec import Budget
from probe.metrics.bootstrap import Estimate
from probe.progress import duration
from probe.shown.terminal import Terminal
from probe.steering.arms import Arm
from probe.steering.effects import difference, share_of_gap
from probe.steering.ground import Ground
from probe.steering.measuring import SteeredText
from probe.verbs.sweep.sweep import Cell, Setting, recommend, sweep


@dataclass(frozen=True)
class Searched:
    """What the search found along the direction, and along each random one."""

    cells: list[Cell]
    plain: dict[str, float]
    recommended: Cell
    random: list[tuple[Direction, Cell]]

    def cosines(self, ours: Direction) -> list[float]:
        """Of each random direction with ours where its own search recommends it: in D dimensions about 1 / sqrt(D) either way."""
        return [
            float(np.mean([float(rival.at(k) @ ours.at(k)) for k in cell.setting.layers]))
            for rival, cell in self.random
        ]


@dataclass(frozen=True)
class Outcome:
    """The recommended setting on prompts that were not searched on."""

    texts: dict[str, list[SteeredText]]
    """`uncreative`, `steered` and `creative`."""
    gap: Estimate
    """By how much creative prompts exceed uncreative ones, in what steering is told by."""
    gain: Estimate
    """By how much the steered texts do."""
    random_gains: list[float]
    """The same for random directions, each at the setting that its own search recommends."""
    share: Estimate
    """Of the way from uncreative to creative that steering goes; by the witness, else by the clean re-score."""
    random_shares: list[float]
    """The same for random directions, each at the setting that its own search recommends."""


def search(
    ground: Ground, settings: Sequence[Setting], budget: Budget, n_random: int, seed: int, console: Terminal
) -> Searched:
    """Sweeps along the direction, and in the same way along random ones of equal norm."""
    direction, n = ground.direction, len(settings) * len(ground.prompts)
    start = time.monotonic()
    ground.texts([Arm("unsteered")])
    takes = duration((time.monotonic() - start) * (len(settings) + 1) * (n_random + 1))
    console.print(
        f"searching {len(settings)} settings on {len(ground.prompts)} prompts: {n} texts, {n_random} times more for the null; "
        f"about {takes}, and then the judging"
    )
    cells, plain = sweep(ground, direction, settings, budget, progress=True)
    null = random_directions(n_random, direction.layers, direction.vectors.shape[1], seed)
    random = []
    for i, vectors in enumerate(null, 1):
        console.print(f"searching along random direction {i} of {n_random}")
        rival = replace(direction, vectors=vectors)
        random.append((rival, recommend(sweep(ground, rival, settings, budget, progress=True)[0])))
    return Searched(cells, plain, recommend(cells), random)


def judge(ground: Ground, searched: Searched, console: Terminal) -> Outcome:
    """Judges the recommended setting, and each random direction's own, on the prompts that were not searched on."""
    console.print(f"judging on {len(ground.prompts)} other prompts, {3 + len(searched.random)} times")
    arms = [Arm("uncreative"), searched.recommended.setting.arm(ground.direction, "steered"), ground.creative_arm]
    arms += [cell.setting.arm(rival, f"random {i}") for i, (rival, cell) in enumerate(searched.random)]
    uncreative, steered, creative, *random = ground.texts(arms, progress=True)

    def share(texts: Sequence[SteeredText]) -> Estimate:
        return share_of_gap(uncreative, texts, creative, ground.groups, ground.told_by)

    texts = {"uncreative": uncreative, "steered": steered, "creative": creative}
    gap, gain, *gains = (
        difference(arm, uncreative, ground.groups, ground.told_by)[0] for arm in (creative, steered, *random)
    )
    return Outcome(
        texts, gap, gain, [of_arm.value for of_arm in gains], share(steered), [share(arm).value for arm in random]
    )
