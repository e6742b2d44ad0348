"""The sweep: every layer at every strength on a few dull prompts, what each setting gains and costs, and which one to use."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from probe.directions.direction import Direction
from probe.lm.spec import Budget
from probe.metrics.ranks import mean
from probe.steering.arms import Arm
from probe.steering.effects import values_of
from probe.steering.ground import Ground
from probe.steering.measuring import SteeredText


@dataclass(frozen=True)
class Setting:
    """Where and how much to steer."""

    layers: tuple[int, ...]
    """Usually one; several share the strength out."""
    strength: float
    """Of the direction at each layer; a random direction gets the same length."""
    unit: str = "dose"
    operator: str = "plus"

    @property
    def where(self) -> str:
        """The layers in words."""
        first, last = self.layers[0], self.layers[-1]
        whole = self.layers == tuple(range(first, last + 1)) and first != last
        return f"{first}-{last}" if whole else ",".join(map(str, self.layers))

    def arm(self, direction: Direction, name: str) -> Arm:
        """Steering with a direction, which may be a random one with our lengths."""
        return Arm(name, direction.deltas(self.strength, self.unit, self.layers), self.strength, self.operator)


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

    def value(self, measure: str) -> float:
        """The gain, or the mean of a measure; nan where it was not measured."""
        return self.gain if measure == "gain" else self.means.get(measure, np.nan)


def sweep(
    ground: Ground, direction: Direction, settings: Sequence[Setting], budget: Budget, progress: bool = False
) -> tuple[list[Cell], dict[str, float]]:
    """Measures every setting along a direction, ours or a random one; also the means of the unsteered texts."""
    arms = [Arm("unsteered"), *(setting.arm(direction, "direction") for setting in settings)]
    plain, *steered = [_means(texts) for texts in ground.texts(arms, progress)]
    told = ground.told_by
    cells = []
    for setting, means in zip(settings, steered, strict=True):
        share = setting.strength / len(setting.layers)
        lengths = [direction.strength(share, setting.unit, k) for k in setting.layers]
        norms = [direction.strength(1.0, "norm", k) for k in setting.layers]
        cheap = means["extra_nll"] <= budget.extra_nll
        fresh = means["repetition"] - plain["repetition"] <= budget.repetition
        of_norm = sum(length / norm for length, norm in zip(lengths, norms, strict=True))
        cells.append(Cell(setting, sum(lengths), of_norm, means, means[told] - plain[told], bool(cheap and fresh)))
    return cells, plain


def _means(texts: Sequence[SteeredText]) -> dict[str, float]:
    means = {m: float(mean(values_of(texts, m))[0]) for m in texts[0].measures}
    return means | {"empty": _empty(texts)}


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
    readable = [cell for cell in cells if np.isfinite([cell.gain, cell.means["extra_nll"]]).all()]
    for cell in sorted(readable, key=lambda c: (c.means["extra_nll"], -c.gain)):
        if not front or cell.gain > front[-1].gain:
            front.append(cell)
    return front


def at_matched(cells: Sequence[Cell], by: str, target: float) -> dict[str, dict[str, float]]:
    """Layer -> its measures where `by` reaches the target, by linear interpolation along the strengths.

    `by` is `strength_absolute`, `strength_norm`, or a measure such as `kl`; a layer that does not reach the target is left out.
    """
    of_place: dict[str, dict[str, float]] = {}
    for place in dict.fromkeys(cell.setting.where for cell in cells):
        along = sorted((c for c in cells if c.setting.where == place), key=lambda c: c.setting.strength)
        reached = [getattr(c, by) if hasattr(c, by) else c.means[by] for c in along]
        path = [c for c, value in zip(along, reached, strict=True) if np.isfinite(value)]
        # A noisy measure may dip: the first strength that reaches the target counts.
        x = np.maximum.accumulate([value for value in reached if np.isfinite(value)])
        if path and x[0] <= target <= x[-1]:
            measures: Mapping[str, list[float]] = {m: [c.means.get(m, np.nan) for c in path] for m in path[0].means}
            of_place[place] = {m: float(np.interp(target, x, values)) for m, values in measures.items()}
            of_place[place]["gain"] = float(np.interp(target, x, [c.gain for c in path]))
            of_place[place]["strength"] = float(np.interp(target, x, [c.setting.strength for c in path]))
    return of_place
