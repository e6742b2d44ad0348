"""sweep: at which layer and how strongly to steer, what it gains on prompts not searched on, and what it costs."""

import sys

from probe.errors import ProbeError
from probe.spec import Budget, DataFiles, LMSpec, Writing

STRENGTHS = (0.25, 0.35, 0.5, 0.71, 1.0, 1.41, 2.0)
"""Class gaps, the square root of 2 apart: at 1 the mean dull state becomes the mean creative one, beyond 2 is far from both."""


def run(
    data: DataFiles,
    direction: str | None = None,
    lm: LMSpec | None = None,
    layers: list[int] | None = None,
    together: bool = False,
    strengths: tuple[float, ...] = STRENGTHS,
    budget: Budget = Budget(),  # noqa: B008  (read, never changed)
    n_prompts: int = 24,
    n_test_prompts: int = 240,
    n_random: int = 20,
    steering: Writing = Writing(),  # noqa: B008
    rows: int = 64,
    other_model: bool = False,
    output: str = "lightning_logs/sweep",
) -> int:
    """Searches layer and strength on a few dull prompts, and judges the setting found on others.

    The setting is saved into the direction, and `generate` uses it from then on. Random directions get the same search.

    Args:
        data: The files that the direction was fitted with.
        direction: Folder of a saved direction; the newest under lightning_logs by default.
        lm: The model; by default the one that the direction was made with.
        layers: Blocks to try; all that the direction has by default.
        together: Try all these layers at once, too; they share the strength out.
        strengths: In class gaps of the direction at each layer.
        budget: What steering may cost.
        n_prompts: Uncreative prompts to search on, from half of the validation groups.
        n_test_prompts: Uncreative prompts to judge on, from all other held-out groups.
        n_random: Random directions, each given the same search and judged on the same prompts; 0 for none.
        steering: How texts are written and who reads them.
        rows: Texts written at once: more is faster until memory ends.
        other_model: Admit a model with other weights than those that the direction was made with.
        output: Folder of the runs.
    """
    from rich.console import Console

    from probe.held_out import held_out, open_direction
    from probe.steering import Sampling
    from probe.sweep import Setting
    from probe.sweep_report import SweepReport
    from probe.sweep_trial import judge, search

    if not strengths or min(strengths) <= 0:
        raise ProbeError(
            f"--strengths: expected numbers above 0, found {list(strengths)}; the sign is the direction's."
        )
    how = Sampling(steering.max_new_tokens, steering.temperature, steering.seed, steering.tokens or "all", rows)
    folder, found, rows_of, frozen = open_direction(direction, data, lm, other_model)
    unknown = sorted(set(layers or ()) - set(found.layers))
    if unknown:
        raise ProbeError(f"--layers: the direction holds {list(found.layers)}, found {unknown[0]}; choose among those.")
    wanted = tuple(layers or found.layers)
    places = [(k,) for k in wanted] + ([wanted] if together and len(wanted) > 1 else [])
    settings = [Setting(place, strength) for place in places for strength in strengths]
    console = Console(width=None if sys.stdout.isatty() else 120)
    ground, other_ground = held_out(frozen, found, rows_of, how, steering.witness, n_prompts, n_test_prompts)
    searched = search(ground, settings, budget, n_random, steering.seed, console)
    judged = judge(other_ground, searched, console)
    SweepReport(output, folder, other_ground, budget, searched, judged).write(console)
    return 0
