"""The paper's experiment: dull prompts answered plainly, steered, and by the controls that the paper lacks.

Source: Olson et al. 2024, arXiv 2412.06060, section 4: stories from creative prompts, from uncreative ones, and from
uncreative ones with steering.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np
from scipy.optimize import bisect
from torch import Tensor

from probe.data.concept import less
from probe.directions.direction import Recommended, random_directions
from probe.metrics.bootstrap import Estimate, holm
from probe.metrics.pairwise import Comparison, Winner, by_number, comparisons
from probe.metrics.ranks import mean
from probe.metrics.texts import distinct
from probe.steering.arms import Arm, write
from probe.steering.effects import difference, share_of_gap, values_of
from probe.steering.ground import Ground
from probe.steering.measuring import SteeredText

HOTTEST = 2.0
"""Temperature at which the search for steering's diversity ends."""
MATCHED_ON = 64
"""Prompts on which temperature and adapter are matched."""
OF_THE_PAPER = frozenset({"uncreative", "steered", "creative"})
CONTROLS = ("asked", "random", "hot", "writer")


@dataclass(frozen=True)
class StorySets:
    """The sets of stories, a text for each prompt, in one order."""

    ground: Ground
    texts: Mapping[str, list[SteeredText]]
    made: Mapping[str, str]
    """How each set was made, in words."""

    @cached_property
    def gap(self) -> Estimate:
        """By how much creative prompts exceed uncreative ones, in what steering is told by."""
        return self._difference("creative", "uncreative")[0]

    @cached_property
    def shares(self) -> dict[str, Estimate]:
        """Set -> how far it goes of the way from uncreative to creative prompts; means little where there is no gap."""
        low, high, told = self.texts["uncreative"], self.texts["creative"], self.ground.told_by
        return {
            name: share_of_gap(low, texts, high, self.ground.groups, told)
            for name, texts in self.texts.items()
            if name not in ("uncreative", "creative")
        }

    @cached_property
    def beyond_controls(self) -> dict[str, tuple[Estimate, float]]:
        """Control -> by how much the steered texts exceed its texts in what steering is told by, and Holm's p."""
        names = [name for name in CONTROLS if name in self.texts]
        differences = [self._difference("steered", name) for name in names]
        adjusted = holm([p for _, p in differences])
        return {name: (e, p) for name, (e, _), p in zip(names, differences, adjusted, strict=True)}

    def _difference(self, one: str, other: str) -> tuple[Estimate, float]:
        return difference(self.texts[one], self.texts[other], self.ground.groups, self.ground.told_by)

    def comparisons(self, n_prompts: int | None = None) -> list[Comparison]:
        """Every set against the uncreative one, and the steered one against the rest; of all prompts or the first ones."""
        names = [name for name in self.texts if name not in ("uncreative", "steered")]
        pairs = [("steered", "uncreative"), *((n, "uncreative") for n in names), *(("steered", n) for n in names)]
        sets = {name: [text.text for text in texts[:n_prompts]] for name, texts in self.texts.items()}
        return comparisons(sets, self.ground.prompts[:n_prompts], self.ground.groups[:n_prompts], pairs)

    def told(self, measure: str) -> list[Winner | None]:
        """Who wins each of the comparisons by a measure."""
        of = {(t.arm, t.prompt): t.value(measure) for texts in self.texts.values() for t in texts}
        pairs = self.comparisons()
        return by_number([of[c.set_a, c.prompt] for c in pairs], [of[c.set_b, c.prompt] for c in pairs])


def write_stories(
    ground: Ground,
    how: Recommended,
    ask: str,
    seed: int,
    tell: Callable[[str], None],
    progress: bool = False,
) -> StorySets:
    """Writes all sets, with common random numbers where the question is the same; an adapter of the LM is a control too.

    Args:
        ground: Prompts, direction and how is written.
        how: How is steered.
        ask: The prompt baseline: {prompt} stands for the dull prompt.
        seed: Of the random directions.
        tell: Is told what is being done.
        progress: Show bars.
    """
    deltas = ground.direction.deltas(how.strength, how.unit, how.layers)
    steered, n = Arm("steered", deltas, how.strength, how.operator), len(ground.prompts)
    arms: dict[str, Arm | list[Arm]] = {
        "uncreative": Arm("uncreative"),
        "steered": steered,
        "creative": ground.creative_arm,
        "asked": Arm("asked", asks={prompt: ask.replace("{prompt}", prompt) for prompt in ground.prompts}),
        "random": [
            Arm("random", of_prompt, how.strength, how.operator) for of_prompt in _random(ground, deltas, n, seed)
        ],
    }
    at_layers = f"layer{'s' * (len(how.layers) > 1)} {', '.join(map(str, how.layers))}"
    by = "" if how.operator == "plus" else f", by {how.operator}"
    dull = less(ground.concept)
    made = {
        "uncreative": f"{dull} prompts",
        "steered": f"{dull} prompts, steered by {how.strength:g} ({how.unit}) at {at_layers}{by}",
        "creative": f"{ground.concept} prompts",
        "asked": f"{dull} prompts, asked as {ask!r}",
        "random": f"{dull} prompts, each steered along its own random direction of the same length",
    }
    tell("matching the temperature to the diversity of the steered texts")
    arms["hot"], made["hot"] = _hot(ground.first(MATCHED_ON), steered)
    if ground.lm.adapter is not None:
        tell("matching the share of the adapter to the KL of steering")
        arms["writer"], made["writer"] = _writer(ground.first(MATCHED_ON), steered)
    tell(f"writing {len(arms)} sets of {n} stories")
    return StorySets(ground, dict(zip(arms, ground.texts(list(arms.values()), progress), strict=True)), made)


def _hot(ground: Ground, steered: Arm) -> tuple[Arm, str]:
    """Plain writing at the temperature at which it is as diverse as the steered texts."""

    @cache
    def diversity(temperature: float | None) -> float:
        arm = steered if temperature is None else Arm("hot", temperature=temperature)
        return float(np.nan_to_num(distinct(write(ground.lm, [(p, arm) for p in ground.prompts], ground.how), 2)))

    coolest, target = ground.how.temperature, diversity(None)
    temperature = matched(diversity, target, coolest, max(HOTTEST, coolest))
    reached = f"distinct-2 is {diversity(temperature):.3f} there, {target:.3f} of steered texts"
    return Arm("hot", temperature=temperature), f"uncreative prompts at temperature {temperature:.2f} ({reached})"


def _writer(ground: Ground, steered: Arm) -> tuple[Arm, str]:
    """As much of the LoRA writer as goes as far from the clean model as steering does."""

    @cache
    def kl(share: float | None) -> float:
        arm = steered if share is None else Arm("writer", adapter=share)
        return float(np.nan_to_num(mean(values_of(ground.texts([arm])[0], "kl"))[0]))

    target = kl(None)
    share = matched(kl, target, 0.0, 1.0)
    reached = f"KL is {kl(share):.4f} there, {target:.4f} of steering"
    return Arm(
        "writer", adapter=share, strength=share
    ), f"uncreative prompts, {share:.2f} of the LoRA writer ({reached})"


def matched(measure: Callable[[float], float], target: float, low: float, high: float) -> float:
    """Where between low and high a rising measure reaches the target, to a fiftieth; the nearer end where it does not."""
    if measure(low) >= target:
        return low
    if measure(high) <= target:
        return high
    return float(bisect(lambda knob: measure(knob) - target, low, high, xtol=(high - low) / 50))


def _random(ground: Ground, deltas: Mapping[int, Tensor], n: int, seed: int) -> list[dict[int, Tensor]]:
    """For each prompt a random direction at each layer, as long as ours is there."""
    layers = list(deltas)
    vectors = random_directions(n, layers, ground.lm.hidden_size, seed)
    return [{k: deltas[k].norm() * of_prompt[i] for i, k in enumerate(layers)} for of_prompt in vectors]
