"""sweep: at which layer and how strongly to steer, what it gains on prompts not searched on, and what it costs."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from probe.errors import ProbeError
from probe.spec import Budget, LMSpec

if TYPE_CHECKING:
    from probe.data import ContrastData
    from probe.directions import Direction

STRENGTHS = (0.25, 0.35, 0.5, 0.71, 1.0, 1.41, 2.0)
"""Class gaps, the square root of 2 apart: at 1 the mean dull state becomes the mean creative one, beyond 2 is far from both."""


@dataclass
class SweptData:
    """The files that the direction was fitted with; its held-out groups give the prompts.

    Args:
        pairs: JSONL or CSV of contrastive pairs.
        validation_stories: Rated texts whose groups are validation.
        test_stories: Rated texts whose groups are test.
        fractions: Share of groups for validation and for test where no stories decide it.
        seed: Splits groups.
    """

    pairs: str
    validation_stories: str | None = None
    test_stories: str | None = None
    fractions: tuple[float, float] = (0.2, 0.2)
    seed: int = 0


def run(
    data: SweptData,
    direction: str | None = None,
    lm: LMSpec | None = None,
    layers: list[int] | None = None,
    strengths: tuple[float, ...] = STRENGTHS,
    budget: Budget = Budget(),  # noqa: B008  (read, never changed)
    n_prompts: int = 24,
    n_test_prompts: int = 240,
    n_random: int = 20,
    tokens: Literal["all", "prompt", "generated"] = "all",
    max_new_tokens: int = 120,
    temperature: float = 0.8,
    witness: Literal["none", "storyteller"] = "none",
    seed: int = 0,
    rows: int = 64,
    output: str = "lightning_logs/sweep",
) -> int:
    """Searches layer and strength on a few dull prompts, and judges the setting found on others.

    The setting is saved into the direction, and `generate` uses it from then on. Random directions get the same search.

    Args:
        data: The files that the direction was fitted with.
        direction: Folder of a saved direction; the newest under lightning_logs by default.
        lm: The model; by default the one that the direction was made with.
        layers: Blocks to try; all that the direction has by default.
        strengths: In class gaps of the direction at each layer.
        budget: What steering may cost.
        n_prompts: Uncreative prompts to search on, from half of the validation groups.
        n_test_prompts: Uncreative prompts to judge on, from all other held-out groups.
        n_random: Random directions, each given the same search and judged on the same prompts; 0 for none.
        tokens: Which tokens are steered.
        max_new_tokens: Length limit of a text.
        temperature: Sampling temperature; 0 is greedy.
        witness: `storyteller` lets the embedded model's grammar read the texts; `none` for any other model.
        seed: Of the sampling and of random directions.
        rows: Texts written at once: more is faster until memory ends.
        output: Folder of the runs.
    """
    from rich.console import Console

    from probe.data import ContrastData
    from probe.directions import Direction, newest_direction
    from probe.lm import FrozenLM
    from probe.steering import Sampling
    from probe.sweep_report import SweepReport
    from probe.sweep_trial import held_out, judge, search

    if not strengths or min(strengths) <= 0:
        raise ProbeError(
            f"--strengths: expected numbers above 0, found {list(strengths)}; the sign is the direction's."
        )
    folder = Path(direction) if direction else newest_direction(Path("lightning_logs"))
    found = Direction.load(folder)
    if found.chosen is None:
        raise ProbeError(
            f"{folder}: expected a direction whose layer was chosen, found none; fit it with validation groups."
        )
    unknown = sorted(set(layers or ()) - set(found.layers))
    if unknown:
        raise ProbeError(f"--layers: the direction holds {list(found.layers)}, found {unknown[0]}; choose among those.")
    rows_of = ContrastData(
        data.pairs, data.validation_stories, data.test_stories, fractions=data.fractions, seed=data.seed
    )
    rows_of.setup("fit")
    _check_same_pairs(rows_of, found, folder)
    spec = lm or LMSpec(found.provenance["lm"], found.provenance["lm_dtype"])
    frozen = FrozenLM.load(spec)
    found.check_fits(frozen.hidden_size, frozen.n_layers, frozen.fingerprint)
    console = Console(width=None if sys.stdout.isatty() else 120)
    how = Sampling(max_new_tokens, temperature, seed, tokens, rows)
    grounds = held_out(frozen, found, rows_of, how, witness, n_prompts, n_test_prompts)
    searched = search(grounds, layers or list(found.layers), strengths, budget, n_random, seed, console)
    SweepReport(output, folder, found, grounds, budget, searched, judge(grounds, searched, console)).write(console)
    return 0


def _check_same_pairs(data: "ContrastData", direction: "Direction", folder: Path) -> None:
    from dataclasses import asdict

    from probe.scorers.base import fingerprint

    if fingerprint([asdict(pair) for pair in data.pairs]) != direction.provenance.get("data_fingerprint"):
        raise ProbeError(
            f"{folder}: this direction was fitted on other pairs than `data` gives for training, so its held-out prompts are "
            "not known; use the data section of its config.yaml."
        )
