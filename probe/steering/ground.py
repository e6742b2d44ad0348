"""Held-out ground to steer on: dull prompts that no direction learned from, their creative counterparts, and a clean score."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from probe.activations.extractor import ActivationExtractor
from probe.data.concept import CREATIVE
from probe.data.reading import Row, labels, pairs
from probe.data.splits import SPLITS, ContrastData
from probe.directions.direction import Direction, mean_difference_of
from probe.errors import ProbeError
from probe.files import fingerprint
from probe.lm.frozen import FrozenLM
from probe.lm.spec import DataFiles, LMSpec
from probe.steering.arms import Arm, written
from probe.steering.measuring import Readers, SteeredText, measure
from probe.steering.settings import Sampling
from probe.steering.witness import SCORE, Case, Witness, meet, told_by

HOLD_OUT = (
    "fit one without stories (`--data.init_args.validation_stories null --data.init_args.test_stories null`), which holds out "
    "groups of the pairs, and use the same data here."
)


@dataclass(frozen=True)
class Ground:
    """What the texts of one experiment share.

    Args:
        lm: The model.
        direction: Its gaps and norms give the lengths, also those of random directions.
        how: How texts are written.
        witnesses: Who else reads them.
        prompts: Uncreative prompts.
        creative: The creative counterpart of each.
        groups: The group of each.
        other: Unit vector `[D]` that scores all texts at the layer where the direction reads best, from other groups.
    """

    lm: FrozenLM
    direction: Direction
    how: Sampling
    witnesses: Sequence[Witness] = ()
    prompts: Sequence[str] = ()
    creative: Sequence[str] = ()
    groups: Sequence[str] = ()
    other: Tensor = field(default_factory=lambda: torch.tensor(torch.nan))

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
    def concept(self) -> str:
        """What the direction is one of."""
        return str(self.direction.provenance.get("concept", CREATIVE))

    @property
    def group_of(self) -> dict[str, str]:
        """Prompt -> group."""
        return dict(zip(self.prompts, self.groups, strict=True))

    @property
    def told_by(self) -> str:
        """The measure that says what steering gained: a witness's where one tells, else the clean re-score."""
        return told_by(self.witnesses)

    @property
    def measures(self) -> list[str]:
        """What can say it."""
        return list(dict.fromkeys([self.told_by, SCORE]))

    @property
    def by_whom(self) -> str:
        """The one that does say it, in words."""
        return "the clean re-score (no witness)" if self.told_by == SCORE else f"the witness ({self.told_by})"

    @property
    def creative_arm(self) -> Arm:
        """Each prompt's creative counterpart, asked in its place."""
        return Arm("creative", asks=dict(zip(self.prompts, self.creative, strict=True)))

    def over(self, pairs: Sequence[tuple[Row, Row]], other: Tensor, n: int) -> "Ground":
        """The same on the first n of these pairs, scored by another direction; the witnesses meet who steers."""
        kept = _spread(pairs)[:n]
        prompts, creative = [dull.prompt for _, dull in kept], [bold.prompt for bold, _ in kept]
        meet(self.witnesses, Case(self.lm, self.direction, self.concept))
        return replace(self, prompts=prompts, creative=creative, groups=[dull.group for _, dull in kept], other=other)

    def first(self, n: int) -> "Ground":
        """The same with the first n prompts alone."""
        return replace(self, prompts=self.prompts[:n], creative=self.creative[:n], groups=self.groups[:n])

    def texts(self, arms: Sequence[Arm | Sequence[Arm]], progress: bool = False) -> list[list[SteeredText]]:
        """Writes and measures each arm's texts, an unsteered arm's among them; an arm may be one for each prompt."""
        each = [[arm] * len(self.prompts) if isinstance(arm, Arm) else arm for arm in arms]
        asked = [pair for of_arm in each for pair in zip(self.prompts, of_arm, strict=True)]
        of_asked = written(self.lm, asked, self.how, progress)
        readers = Readers(self.layer, self.other, self.witnesses)
        measured = measure(self.lm, asked, of_asked, self.how, readers, progress)
        n = len(self.prompts)
        return [measured[i * n : (i + 1) * n] for i in range(len(arms))]


def open_direction(
    folder: Path, files: DataFiles, lm: LMSpec | None, other_model: bool = False
) -> tuple[Direction, ContrastData, FrozenLM]:
    """A saved direction, with the data that it was fitted on and its model.

    Raises:
        ProbeError: where its layer was never chosen, or where data or model are not those that it was made with.
    """
    opened = Direction.load(folder)
    if opened.chosen is None:
        raise ProbeError(
            f"{folder}: expected a direction whose layer was chosen, found none; fit it with validation groups."
        )
    data = ContrastData(
        files.pairs, files.validation_stories, files.test_stories, fractions=files.fractions, seed=files.seed
    )
    data.setup("fit")
    if fingerprint([asdict(pair) for pair in data.examples]) != opened.provenance.get("data_fingerprint"):
        raise ProbeError(
            f"{folder}: this direction was fitted on other pairs than `data` gives for training, so its held-out prompts are "
            "not known; use the data section of its config.yaml."
        )
    made = opened.provenance
    told = {"system": made.get("lm_system"), "chat_template_kwargs": made.get("lm_chat_template_kwargs", {})}
    frozen = FrozenLM.load(lm or LMSpec(made["lm"], made["lm_dtype"], **told))
    opened.check_fits(frozen.hidden_size, frozen.n_layers, frozen.fingerprint, other_model)
    return opened, data, frozen


def unseen_ground(
    lm: FrozenLM, direction: Direction, data: ContrastData, how: Sampling, witnesses: Sequence[Witness], n: int
) -> Ground:
    """Prompts of the test groups alone, on which nothing was learned, chosen or searched; validation groups score the texts.

    Raises:
        ProbeError: where either has no pairs.
    """
    for split in SPLITS[1:]:
        if not _pairs(data.rows[split]):
            raise ProbeError(
                f"expected pairs in the {split} groups, found none, as this direction learned from them all; {HOLD_OUT}"
            )
    assert direction.chosen is not None, "open_direction refuses it"
    other = _other(ActivationExtractor(lm, [direction.chosen]), data.rows["validation"], direction)
    return Ground(lm, direction, how, witnesses).over(_pairs(data.rows["test"]), other, n)


def held_out(
    lm: FrozenLM,
    direction: Direction,
    data: ContrastData,
    how: Sampling,
    witnesses: Sequence[Witness],
    n_search: int,
    n_test: int,
) -> tuple[Ground, Ground]:
    """Where is searched and where is judged; no group is in both, nor in what the direction learned from.

    Half of the validation groups give the prompts to search on, the other half and the test groups those to judge on.
    Each half scores the other's texts: with the mean difference of groups that gave no prompt and trained no direction.
    """
    validation, test = data.rows["validation"], data.rows["test"]
    groups = sorted({row.group for row in validation if row.side})
    if len(groups) < 2:
        raise ProbeError(
            f"expected at least 2 validation groups with pairs, found {len(groups)}, as this direction learned from the others; "
            f"{HOLD_OUT}"
        )
    halves = [
        [row for row in validation if row.group in half]
        for half in (groups[: len(groups) // 2], groups[len(groups) // 2 :])
    ]
    assert direction.chosen is not None, "open_direction refuses it"
    extractor = ActivationExtractor(lm, [direction.chosen])
    others = [_other(extractor, rows, direction) for rows in halves]
    searched, judged = _pairs(halves[0]), _pairs(halves[1]) + _pairs(test)
    ground = Ground(lm, direction, how, witnesses)
    return ground.over(searched, others[1], n_search), ground.over(judged, others[0], n_test)


def dull_prompts(rows: Sequence[Row], groups: Sequence[str] | None = None) -> list[str]:
    """Uncreative prompts of the given groups, or of all, a first one of every group before a second of any.

    Where there are only rated texts, what these answer.
    """
    ours = sorted((row for row in rows if groups is None or row.group in groups), key=lambda row: row.group)
    both = _pairs(ours) or [(row, row) for row in ours]
    return [dull.prompt for _, dull in _spread(both)]


def _pairs(rows: Sequence[Row]) -> list[tuple[Row, Row]]:
    return [(rows[i], rows[j]) for i, j in pairs(rows) if rows[i].side]


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
    return mean_difference_of(h, labels(sides))[0]
