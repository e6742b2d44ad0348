"""The sweep: every layer at every strength on a few dull prompts, what each setting gains and costs, and which one to use."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from probe.bootstrap import Estimate, group_bootstrap
from probe.directions import Direction
from probe.effects import mean_over_prompts
from probe.lm import FrozenLM
from probe.metrics import Floats
from probe.spec import Budget
from probe.steering import MEASURES, Arm, Sampling, SteeredText, Witness, measure, write


@dataclass(frozen=True)
class Setting:
    """Where and how much to steer."""

    layer: int
    strength: float
    """In class gaps of the direction at that layer; a random direction gets the same length."""


@dataclass(frozen=True)
class Cell:
    """One setting, with its means over the prompts."""

    setting: Setting
    strength_absolute: float
    strength_norm: float
    """As a share of the residual norm at its layer."""
    means: dict[str, float]
    gain: float
    """By the witness, else by the clean re-score, above the unsteered texts."""
    affordable: bool


@dataclass(frozen=True)
class Ground:
    """What steered texts of one experiment share.

    Args:
        lm: The model.
        direction: Its gaps and norms give the lengths, also those of random directions.
        prompts: Uncreative prompts, steered and not.
        other: Unit vector `[D]` that scores all texts at the layer where the direction reads best, from other groups.
        how: How texts are written.
        witness: Who else reads them.
    """

    lm: FrozenLM
    direction: Direction
    prompts: Sequence[str]
    other: Tensor
    how: Sampling
    witness: Witness

    def arm(self, setting: Setting, vectors: Tensor, name: str = "direction") -> Arm:
        """Steering by a setting along unit vectors `[L, D]`."""
        row = self.direction.layers.index(setting.layer)
        length = self.direction.strength(setting.strength, "gap", setting.layer)
        return Arm(name, {setting.layer: length * vectors[row]}, setting.strength)

    def texts(self, arms: Sequence[Arm], progress: bool = False) -> list[list[SteeredText]]:
        """Writes and measures each arm's texts, an unsteered arm first among them."""
        asked = [(prompt, arm) for arm in arms for prompt in self.prompts]
        layer = self.direction.chosen
        assert layer is not None
        written = write(self.lm, asked, self.how, progress)
        measured = measure(self.lm, asked, written, self.how, layer, self.other, self.witness)
        n = len(self.prompts)
        return [measured[i * n : (i + 1) * n] for i in range(len(arms))]


def sweep(
    ground: Ground, vectors: Tensor, settings: Sequence[Setting], budget: Budget, progress: bool = False
) -> tuple[list[Cell], dict[str, float]]:
    """Measures every setting along unit vectors `[L, D]`; also the means of the unsteered texts."""
    arms = [Arm("unsteered"), *(ground.arm(setting, vectors) for setting in settings)]
    plain, *steered = [_means(texts) for texts in ground.texts(arms, progress)]
    told = "inventive_share" if "inventive_share" in plain else "score"
    cells = []
    for setting, means in zip(settings, steered, strict=True):
        length = ground.direction.strength(setting.strength, "gap", setting.layer)
        cheap = means["extra_nll"] <= budget.extra_nll
        fresh = means["repetition"] - plain["repetition"] <= budget.repetition
        norm = length / ground.direction.strength(1.0, "norm", setting.layer)
        cells.append(Cell(setting, length, norm, means, means[told] - plain[told], bool(cheap and fresh)))
    return cells, plain


def _means(texts: Sequence[SteeredText]) -> dict[str, float]:
    found = {m: mean_over_prompts(texts, m).value for m in MEASURES if getattr(texts[0], m) is not None}
    return {m: value for m, value in found.items() if m == "score" or np.isfinite(value)} | {"empty": _empty(texts)}


def _empty(texts: Sequence[SteeredText]) -> float:
    return sum(not text.text.strip() for text in texts) / len(texts)


def recommend(cells: Sequence[Cell]) -> Cell:
    """The largest gain within the budget; where nothing is affordable, the cheapest setting."""
    affordable = [cell for cell in cells if cell.affordable and np.isfinite(cell.gain)]
    if affordable:
        return max(affordable, key=lambda cell: cell.gain)
    return min(cells, key=lambda cell: np.nan_to_num(cell.means["extra_nll"], nan=np.inf))


def pareto(cells: Sequence[Cell]) -> list[Cell]:
    """Settings that no other one beats in gain at no more extra NLL, by rising cost."""
    front: list[Cell] = []
    for cell in sorted(cells, key=lambda c: (c.means["extra_nll"], -c.gain)):
        if not front or cell.gain > front[-1].gain:
            front.append(cell)
    return front


def share_of_gap(
    uncreative: Sequence[SteeredText],
    steered: Sequence[SteeredText],
    creative: Sequence[SteeredText],
    groups: Sequence[str],
    told: str,
) -> Estimate:
    """(steered - uncreative) / (creative - uncreative) in the mean of a measure; the interval resamples groups."""
    values = np.array(
        [[getattr(text, told) for text in texts] for texts in (uncreative, steered, creative)], dtype=float
    )
    seen = np.isfinite(values)
    values = np.where(seen, values, 0.0)

    def statistic(weights: Floats) -> Floats:
        low, ours, high = (weights @ values.T / (weights @ seen.T.astype(float))).T
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray((ours - low) / (high - low))[:, None]

    return group_bootstrap(statistic, groups)[0]


def at_matched(cells: Sequence[Cell], by: str, target: float) -> dict[int, dict[str, float]]:
    """Layer -> its measures where `by` reaches the target, by linear interpolation along the strengths.

    `by` is `strength_absolute`, `strength_norm`, or a measure such as `kl`; a layer that does not reach the target is left out.
    """
    found: dict[int, dict[str, float]] = {}
    for layer in sorted({cell.setting.layer for cell in cells}):
        path = sorted((c for c in cells if c.setting.layer == layer), key=lambda c: c.setting.strength)
        x = np.array([getattr(c, by) if hasattr(c, by) else c.means[by] for c in path])
        x = np.maximum.accumulate(x)  # a noisy measure may dip; the first strength that reaches the target counts
        if x[0] <= target <= x[-1]:
            measures: Mapping[str, list[float]] = {m: [c.means.get(m, np.nan) for c in path] for m in path[0].means}
            found[layer] = {m: float(np.interp(target, x, values)) for m, values in measures.items()}
            found[layer]["gain"] = float(np.interp(target, x, [c.gain for c in path]))
            found[layer]["strength"] = float(np.interp(target, x, [c.setting.strength for c in path]))
    return found
