"""sweep: at which layer and how strongly to steer, what it gains on prompts not searched on, and what it costs."""

from dataclasses import dataclass, replace

from probe.errors import ProbeError
from probe.files import try_folder
from probe.lm.operators import heeds_strength, operator_called
from probe.lm.spec import Budget, DataFiles, LMSpec, Unit
from probe.logs import direction_folder
from probe.options.types import FilePath, NonNegativeInt, PositiveFloat, PositiveInt
from probe.steering.settings import Editing, Witnessed

STRENGTHS = (0.25, 0.35, 0.5, 0.71, 1.0, 1.41, 2.0)
"""The square root of 2 apart. At 1 gap the mean dull state becomes the mean creative one; 2 doses cost about four times one."""


@dataclass(frozen=True)
class Writing(Editing, Witnessed):
    """How texts are written and by what they are steered, and who reads them."""


def run(
    data: DataFiles,
    direction: FilePath | None = None,
    run: str | None = None,
    lm: LMSpec | None = None,
    layers: list[NonNegativeInt] | None = None,
    together: bool = False,
    strengths: tuple[PositiveFloat, ...] = STRENGTHS,
    strength_unit: Unit = "dose",
    budget: Budget = Budget(),  # noqa: B008  (read, never changed)
    n_prompts: PositiveInt = 24,
    n_test_prompts: PositiveInt = 240,
    n_random: NonNegativeInt = 20,
    steering: Writing = Writing(),
    other_model: bool = False,
    output: FilePath = "lightning_logs/sweep",
) -> int:
    """Searches layer and strength on a few dull prompts, and judges the setting found on others.

    The setting is saved into the direction, and `generate` uses it from then on. Random directions get the same search.

    Args:
        data: The files that the direction was fitted with.
        direction: Folder of a saved direction, or of its run; the newest under lightning_logs by default.
        run: Which run's direction, in place of its folder: newest, or a name such as probe/version_3.
        lm: The model; by default the one that the direction was made with.
        layers: Blocks to try; all that the direction has by default.
        together: Try all these layers at once, too; they share the strength out.
        strengths: Of the direction at each layer; a random direction gets the same lengths.
        strength_unit: Of the strengths: dose (the length that costs a stated KL at its layer, measured before the search), gap
            (distance of the two classes), norm (share of the residual norm) or absolute.
        budget: What steering may cost.
        n_prompts: Uncreative prompts to search on, from half of the validation groups.
        n_test_prompts: Uncreative prompts to judge on, from all other held-out groups.
        n_random: Random directions, each given the same search and judged on the same prompts; 0 for none.
        steering: How texts are written, by what they are steered, and who reads them.
        other_model: Admit a model with other weights than those that the direction was made with.
        output: Folder of the runs.
    """
    from probe.shown.terminal import Terminal
    from probe.steering.dose import CALIBRATED_ON, with_dose
    from probe.steering.ground import held_out, open_direction
    from probe.steering.witnesses import witnesses
    from probe.verbs.sweep.report import SweepReport
    from probe.verbs.sweep.sweep import Setting
    from probe.verbs.sweep.trial import judge, search

    operator = steering.operator or "plus"
    if not heeds_strength(operator_called(operator)):
        strengths, strength_unit = (1.0,), "absolute"  # they would all be the same
    try_folder(output, "--output")
    readers = witnesses(steering)
    folder = try_folder(direction_folder(direction, run), "--direction")
    opened, rows_of, frozen = open_direction(folder, data, lm, other_model)
    unknown = sorted(set(layers or ()) - set(opened.layers))
    if unknown:
        raise ProbeError(
            f"--layers: the direction holds {list(opened.layers)}, found {unknown[0]}; choose among those."
        )
    wanted = tuple(layers or opened.layers)
    places = [(k,) for k in wanted] + ([wanted] if together and len(wanted) > 1 else [])
    settings = [Setting(place, strength, strength_unit, operator) for place in places for strength in strengths]
    console = Terminal()
    ground, other_ground = held_out(frozen, opened, rows_of, steering, readers, n_prompts, n_test_prompts)
    if strength_unit == "dose":
        opened = with_dose(frozen, opened, wanted, ground.prompts[:CALIBRATED_ON], steering)
        ground, other_ground = replace(ground, direction=opened), replace(other_ground, direction=opened)
    searched = search(ground, settings, budget, n_random, steering.seed, console)
    judged = judge(other_ground, searched, console)
    SweepReport(output, folder, other_ground, budget, searched, judged).write(console)
    return 0
