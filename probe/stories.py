"""The paper's experiment: dull prompts answered plainly, steered, and by the controls that the paper lacks.

Source: Olson et al. 2024, arXiv 2412.06060, section 4: stories from creative prompts, from uncreative ones, and from
uncreative ones with steering.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy.optimize import bisect
from torch import Tensor

from probe.bootstrap import Estimate, holm, paired_differences
from probe.directions import random_directions
from probe.effects import share_of_gap, values_of
from probe.held_out import Ground
from probe.metrics import Floats
from probe.pairwise import Comparison, comparisons
from probe.steering import Arm, SteeredText
from probe.textstats import distinct

HOTTEST = 2.0
"""Temperature at which the search for steering's diversity ends."""
MATCHED_ON = 64
"""Prompts on which temperature and adapter are matched."""
CONTROLS = ("asked", "random", "hot", "writer")


@dataclass(frozen=True)
class StorySets:
    """The sets of stories, a text for each prompt, in one order."""

    ground: Ground
    texts: Mapping[str, list[SteeredText]]
    made: Mapping[str, str]
    """How each set was made, in words."""

    def shares(self) -> dict[str, Estimate]:
        """Set -> how far it goes of the way from uncreative to creative prompts."""
        low, high, told = self.texts["uncreative"], self.texts["creative"], self.ground.told_by
        return {
            name: share_of_gap(low, texts, high, self.ground.groups, told)
            for name, texts in self.texts.items()
            if name not in ("uncreative", "creative")
        }

    def beyond_controls(self) -> dict[str, tuple[Estimate, float]]:
        """Control -> by how much the steered texts exceed its texts in what steering is told by, and Holm's p."""
        names = [name for name in CONTROLS if name in self.texts]
        ours = values_of(self.texts["steered"], self.ground.told_by)
        found = []
        for name in names:
            difference = ours - values_of(self.texts[name], self.ground.told_by)
            found += paired_differences(_mean_of(difference), self.ground.groups)
        adjusted = holm([p for _, p in found])
        return {name: (e, p) for name, (e, _), p in zip(names, found, adjusted, strict=True)}

    def comparisons(self, n_prompts: int | None = None) -> list[Comparison]:
        """Every set against the uncreative one, and the steered one against the rest; of all prompts or the first ones."""
        names = [name for name in self.texts if name not in ("uncreative", "steered")]
        pairs = [("steered", "uncreative"), *((n, "uncreative") for n in names), *(("steered", n) for n in names)]
        sets = {name: [text.text for text in texts[:n_prompts]] for name, texts in self.texts.items()}
        return comparisons(sets, self.ground.prompts[:n_prompts], self.ground.groups[:n_prompts], pairs)


def _mean_of(values: Floats) -> Callable[[Floats], Floats]:
    """The mean of values `[N]`, nan left out, as a statistic of weights."""
    seen = np.isfinite(values)

    def statistic(weights: Floats) -> Floats:
        with np.errstate(invalid="ignore", divide="ignore"):  # a resample may hold none of them
            return np.asarray(weights[:, seen] @ values[seen] / weights[:, seen].sum(1))[:, None]

    return statistic


def write_stories(
    ground: Ground,
    layers: list[int],
    strength: float,
    unit: str,
    ask: str,
    adapter: bool,
    seed: int,
    tell: Callable[[str], None],
    progress: bool = False,
) -> StorySets:
    """Writes all sets, with common random numbers where the question is the same.

    Args:
        ground: Prompts, direction and how is written.
        layers: Where is steered.
        strength: How strongly, in the unit.
        unit: `gap`, `norm` or `absolute`.
        ask: The prompt baseline: {prompt} stands for the dull prompt.
        adapter: Whether the LM carries a LoRA writer, which then is a control too.
        seed: Of the random directions.
        tell: Is told what is being done.
        progress: Show bars.
    """
    deltas = ground.direction.deltas(strength, unit, layers)
    arms: dict[str, Arm | list[Arm]] = {
        "uncreative": Arm("uncreative"),
        "steered": Arm("steered", deltas, strength),
        "creative": ground.creative_arm,
        "asked": Arm("asked", asks={prompt: ask.replace("{prompt}", prompt) for prompt in ground.prompts}),
        "random": [
            Arm("random", of_prompt, strength) for of_prompt in _random(ground, deltas, len(ground.prompts), seed)
        ],
    }
    where = f"layer{'s' * (len(layers) > 1)} {', '.join(map(str, layers))}"
    made = {
        "uncreative": "uncreative prompts",
        "steered": f"uncreative prompts, steered by {strength:g} ({unit}) at {where}",
        "creative": "creative prompts",
        "asked": f"uncreative prompts, asked as {ask!r}",
        "random": "uncreative prompts, each steered along its own random direction of the same length",
    }
    few = ground.first(MATCHED_ON)
    (steered,) = few.texts([arms["steered"]])
    tell("matching the temperature to the diversity of the steered texts")

    @cache
    def diversity(temperature: float) -> float:
        return _distinct_2(few.texts([Arm("hot", temperature=temperature)])[0])

    coolest = ground.how.temperature
    temperature = matched(diversity, _distinct_2(steered), coolest, max(HOTTEST, coolest))
    arms["hot"] = Arm("hot", temperature=temperature)
    made["hot"] = f"uncreative prompts at temperature {temperature:.2f}, for the distinct-2 of steered texts" + (
        ": no higher than that of all" if temperature == coolest else ""
    )
    if adapter:
        tell("matching the share of the adapter to the KL of steering")

        @cache
        def kl(share: float) -> float:
            return _mean_kl(few.texts([Arm("writer", adapter=share)])[0]) if share else 0.0

        share = matched(kl, _mean_kl(steered), 0.0, 1.0)
        arms["writer"] = Arm("writer", adapter=share, strength=share)
        made["writer"] = f"uncreative prompts, {share:.2f} of the LoRA writer, for the KL of steering"
    tell(f"writing {len(arms)} sets of {len(ground.prompts)} stories")
    return StorySets(ground, dict(zip(arms, ground.texts(list(arms.values()), progress), strict=True)), made)


def matched(measure: Callable[[float], float], target: float, low: float, high: float) -> float:
    """Where between low and high a rising measure reaches the target, to a fiftieth; the nearer end where it does not."""
    if measure(low) >= target:
        return low
    if measure(high) <= target:
        return high
    return float(bisect(lambda knob: measure(knob) - target, low, high, xtol=(high - low) / 50))


def _distinct_2(texts: list[SteeredText]) -> float:
    return float(
        np.nan_to_num(distinct([text.text for text in texts], 2))
    )  # texts of a word or none have no pairs of words


def _mean_kl(texts: list[SteeredText]) -> float:
    told = [text.kl for text in texts if np.isfinite(text.kl)]
    return float(np.mean(told)) if told else 0.0


def _random(ground: Ground, deltas: Mapping[int, Tensor], n: int, seed: int) -> list[dict[int, Tensor]]:
    """For each prompt a random direction at each layer, as long as ours is there."""
    layers = list(deltas)
    vectors = random_directions(n, layers, ground.lm.hidden_size, seed)
    return [{k: deltas[k].norm() * of_prompt[i] for i, k in enumerate(layers)} for of_prompt in vectors]
