"""Held-out ground to steer on: dull prompts that no direction learned from, their creative counterparts, and a clean score."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from probe.activations import ActivationExtractor
from probe.data import SPLITS, ContrastData, Row
from probe.directions import Direction, mean_difference, newest_direction
from probe.errors import ProbeError
from probe.lm import FrozenLM
from probe.scorers.base import fingerprint
from probe.spec import DataFiles, LMSpec
from probe.steering import Arm, Sampling, SteeredText, Witness, measure, write


@dataclass(frozen=True)
class Ground:
    """What the texts of one experiment share.

    Args:
        lm: The model.
        direction: Its gaps and norms give the lengths, also those of random directions.
        prompts: Uncreative prompts.
        creative: The creative counterpart of each.
        groups: The group of each.
        other: Unit vector `[D]` that scores all texts at the layer where the direction reads best, from other groups.
        how: How texts are written.
        witness: Who else reads them.
    """

    lm: FrozenLM
    direction: Direction
    prompts: Sequence[str]
    creative: Sequence[str]
    groups: Sequence[str]
    other: Tensor
    how: Sampling
    witness: Witness

    @property
    def layer(self) -> int:
        """Where texts are scored."""
        assert self.direction.chosen is not None
        return self.direction.chosen

    @property
    def cosine(self) -> float:
        """Of the direction with the one that scores; near 1 they are one vector, and the score alone proves nothing."""
        return float(self.direction.at(self.layer) @ self.other)

    @property
    def group_of(self) -> dict[str, str]:
        """Prompt -> group."""
        return dict(zip(self.prompts, self.groups, strict=True))

    @property
    def measures(self) -> list[str]:
        """What can say what steering gained: the witness's measure where there is one, and the clean re-score."""
        return ["score"] if self.witness == "none" else ["inventive_share", "score"]

    @property
    def told_by(self) -> str:
        """The measure that does say it."""
        return self.measures[0]

    @property
    def by_whom(self) -> str:
        """The same in words."""
        return "the clean re-score (no witness)" if self.witness == "none" else "the witness"

    @property
    def creative_arm(self) -> Arm:
        """Each prompt's creative counterpart, asked in its place."""
        return Arm("creative", asks=dict(zip(self.prompts, self.creative, strict=True)))

    def first(self, n: int) -> "Ground":
        """The same with the first n prompts alone."""
        return replace(self, prompts=self.prompts[:n], creative=self.creative[:n], groups=self.groups[:n])

    def texts(self, arms: Sequence[Arm | Sequence[Arm]], progress: bool = False) -> list[list[SteeredText]]:
        """Writes and measures each arm's texts, an unsteered arm's among them; an arm may be one for each prompt."""
        each = [[arm] * len(self.prompts) if isinstance(arm, Arm) else arm for arm in arms]
        asked = [pair for of_arm in each for pair in zip(self.prompts, of_arm, strict=True)]
        written = write(self.lm, asked, self.how, progress)
        measured = measure(self.lm, asked, written, self.how, self.layer, self.other, self.witness)
        n = len(self.prompts)
        return [measured[i * n : (i + 1) * n] for i in range(len(arms))]


def open_direction(
    direction: str | None, files: DataFiles, lm: LMSpec | None, other_model: bool = False
) -> tuple[Path, Direction, ContrastData, FrozenLM]:
    """A saved direction, the newest by default, with the data that it was fitted on and its model.

    Raises:
        ProbeError: where its layer was never chosen, or where data or model are not those that it was made with.
    """
    folder = Path(direction) if direction else newest_direction(Path("lightning_logs"))
    found = Direction.load(folder)
    if found.chosen is None:
        raise ProbeError(
            f"{folder}: expected a direction whose layer was chosen, found none; fit it with validation groups."
        )
    data = ContrastData(
        files.pairs, files.validation_stories, files.test_stories, fractions=files.fractions, seed=files.seed
    )
    data.setup("fit")
    if fingerprint([asdict(pair) for pair in data.pairs]) != found.provenance.get("data_fingerprint"):
        raise ProbeError(
            f"{folder}: this direction was fitted on other pairs than `data` gives for training, so its held-out prompts are "
            "not known; use the data section of its config.yaml."
        )
    made = found.provenance
    frozen = FrozenLM.load(lm or LMSpec(made["lm"], made["lm_dtype"], system=made.get("lm_system")))
    found.check_fits(frozen.hidden_size, frozen.n_layers, frozen.fingerprint, other_model)
    return folder, found, data, frozen


def unseen_ground(
    lm: FrozenLM, direction: Direction, data: ContrastData, how: Sampling, witness: Witness, n: int
) -> Ground:
    """Prompts of the test groups alone, on which nothing was learned, chosen or searched; validation groups score the texts.

    Raises:
        ProbeError: where either has no pairs.
    """
    for split in SPLITS[1:]:
        if not _pairs(data.rows[split]):
            raise ProbeError(f"expected pairs in the {split} groups, found none; hold out groups that have pairs.")
    assert direction.chosen is not None, "open_direction refuses it"
    other = _other(ActivationExtractor(lm, [direction.chosen]), data.rows["validation"], direction)
    return _ground(lm, direction, _pairs(data.rows["test"]), other, how, witness, n)


def held_out(
    lm: FrozenLM, direction: Direction, data: ContrastData, how: Sampling, witness: Witness, n_search: int, n_test: int
) -> tuple[Ground, Ground]:
    """Where is searched and where is judged; no group is in both, nor in what the direction learned from.

    Half of the validation groups give the prompts to search on, the other half and the test groups those to judge on.
    Each half scores the other's texts: with the mean difference of groups that gave no prompt and trained no direction.
    """
    validation, test = data.rows["validation"], data.rows["test"]
    groups = sorted({row.group for row in validation if row.pair >= 0})
    if len(groups) < 2:
        raise ProbeError(
            f"expected at least 2 validation groups with pairs, found {len(groups)}; hold out more groups."
        )
    halves = [
        [row for row in validation if row.group in half]
        for half in (groups[: len(groups) // 2], groups[len(groups) // 2 :])
    ]
    assert direction.chosen is not None, "open_direction refuses it"
    extractor = ActivationExtractor(lm, [direction.chosen])
    others = [_other(extractor, rows, direction) for rows in halves]
    searched, judged = _pairs(halves[0]), _pairs(halves[1]) + _pairs(test)
    return (
        _ground(lm, direction, searched, others[1], how, witness, n_search),
        _ground(lm, direction, judged, others[0], how, witness, n_test),
    )


def _ground(
    lm: FrozenLM,
    direction: Direction,
    pairs: Sequence[tuple[Row, Row]],
    other: Tensor,
    how: Sampling,
    witness: Witness,
    n: int,
) -> Ground:
    kept = _spread(pairs)[:n]
    prompts, creative = [dull.prompt for _, dull in kept], [bold.prompt for bold, _ in kept]
    return Ground(lm, direction, prompts, creative, [dull.group for _, dull in kept], other, how, witness)


def _pairs(rows: Sequence[Row]) -> list[tuple[Row, Row]]:
    sides = [row for row in rows if row.pair >= 0]
    return list(zip(sides[::2], sides[1::2], strict=True))


def _spread(pairs: Sequence[tuple[Row, Row]]) -> list[tuple[Row, Row]]:
    """A first pair of every group before a second of any; each dull prompt once."""
    pairs = list({dull.prompt: (bold, dull) for bold, dull in pairs}.values())
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
