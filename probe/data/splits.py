"""ContrastData: the LightningDataModule that splits rows by group and yields row numbers and labels, never texts."""

import random
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import lightning as L
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from probe.data.concept import CREATIVE
from probe.data.contrast import read_contrast
from probe.data.reading import Row, crossed_rows, labels, pair_rows, preference_rows, story_rows
from probe.data.rows import CrossedText, Preference, RatedText, TextPair, read_crossed, read_rows
from probe.errors import ProbeError
from probe.options.types import FilePath, NonNegativeInt, Seed, Share

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")


class SplitRows(L.LightningDataModule):
    """Rows by split, yielded as row numbers and labels.

    Args:
        rows: The rows of each split.
        examples: The training pairs or rated texts, for the record of what was learned from.
        batch_size: Rows per batch; 0 is one batch of all rows, which L-BFGS needs.
        seed: Orders rows.
    """

    concept = CREATIVE
    """What the rows differ in, an adjective."""
    examples_are = "pairs"
    """What is learned from."""

    def __init__(
        self,
        rows: dict[Split, list[Row]],
        examples: Sequence[TextPair] | Sequence[RatedText],
        batch_size: NonNegativeInt = 0,
        seed: Seed = 0,
    ) -> None:
        super().__init__()
        if not 0 <= seed < 2**32:
            raise ProbeError(f"data.seed: expected 0 to {2**32 - 1}, found {seed}; correct it.")
        self.rows, self.batch_size, self.seed = rows, batch_size, seed
        self.examples: Sequence[TextPair] | Sequence[RatedText] = examples

    @property
    def rated(self) -> bool:
        """Whether ratings are learned from, not the two sides of pairs."""
        return not any(row.side for row in self.rows["train"])

    def _loader(self, split: Split, shuffle: bool = False) -> DataLoader[Any]:
        rows = self.rows[split]
        trainer = self.trainer
        sampler = RowSampler(
            len(rows), self.seed, shuffle, *((trainer.global_rank, trainer.world_size) if trainer else (0, 1))
        )
        return DataLoader(_RowNumbers(rows), batch_size=self.batch_size or len(rows), sampler=sampler)

    def train_dataloader(self) -> DataLoader[Any]:
        """Sides of the training pairs, or rated texts, in an order that depends on seed and epoch only."""
        return self._loader("train", shuffle=True)

    def val_dataloader(self) -> DataLoader[Any]:
        """Held-out pairs and rated texts of validation."""
        return self._loader("validation")

    def test_dataloader(self) -> DataLoader[Any]:
        """Held-out pairs and rated texts of the test."""
        return self._loader("test")

    def predict_dataloader(self) -> DataLoader[Any]:
        """The test rows, to write their scores to a file."""
        return self._loader("test")


class ContrastData(SplitRows):
    """Contrastive pairs to learn from, and rated stories to be judged on.

    Pairs whose group appears in the test (validation) stories are held out for test (validation). Without such
    stories, groups are split at random by `fractions`, and the classes themselves are the truth.

    Args:
        pairs: JSONL or CSV (so for all files here) of contrastive pairs: creative (or more), uncreative (or less), group, and
            optionally response_creative and response_uncreative. Or of rated texts: in each group the highest rated and the
            lowest rated make a pair, and the texts of held-out groups are the stories to be judged on. Or of comparisons (text_a,
            text_b, preferred): the preferred text is the creative side.
        validation_stories: JSONL of rated texts (text, rating, group, optionally prompt) on which the layer is chosen.
        test_stories: JSONL of rated texts on which the result is read, once; with `raters` their agreement is reported.
        test_preferences: JSONL of compared texts (text_a, text_b, preferred, group, optionally prompt), read on test.
        test_crossed: JSONL of texts on which idea and style are crossed (text, idea, style, group: four texts a topic), read on
            test: how much of the score is the idea, and how much the style.
        fractions: Share of groups for validation and for test where no stories decide it.
        batch_size: Rows per batch; 0 is one batch of all rows, which L-BFGS needs.
        seed: Orders rows and splits groups.
        concept: What the texts differ in, an adjective; given once, as `--concept`.
    """

    def __init__(
        self,
        pairs: FilePath,
        validation_stories: FilePath | None = None,
        test_stories: FilePath | None = None,
        test_preferences: FilePath | None = None,
        test_crossed: FilePath | None = None,
        fractions: tuple[Share, Share] = (0.2, 0.2),
        batch_size: NonNegativeInt = 0,
        seed: Seed = 0,
        concept: str = "creative",
    ) -> None:
        super().__init__({}, [], batch_size, seed)
        self.files = (pairs, validation_stories, test_stories)
        self.test_preferences, self.test_crossed = test_preferences, test_crossed
        self.fractions, self.concept = fractions, concept

    def setup(self, stage: str) -> None:
        """Reads, checks and splits the rows, once for all stages."""
        if self.rows:
            return
        pairs_file, *story_files = self.files
        stories = [read_rows(file, RatedText) if file else [] for file in story_files]
        contrast, rated = read_contrast(str(pairs_file))
        pairs = split_pairs(contrast, stories[0], stories[1], self.fractions, self.seed)
        self.examples = pairs["train"]
        self.rows["train"] = pair_rows(pairs["train"])
        for split, given in zip(SPLITS[1:], stories, strict=True):
            groups = {pair.group for pair in pairs[split]}
            own = [] if given else [text for text in rated if text.group in groups]
            self.rows[split] = pair_rows(pairs[split]) + story_rows(given or own)
        if self.test_preferences:
            preferences = read_rows(self.test_preferences, Preference)
            check_unseen(preferences, self.rows["train"] + self.rows["validation"])
            self.rows["test"] += preference_rows(preferences)
        if self.test_crossed:
            texts = read_crossed(self.test_crossed)
            check_unseen(texts, self.rows["train"] + self.rows["validation"])
            self.rows["test"] += crossed_rows(texts)


def check_unseen(texts: Sequence[Preference] | Sequence[CrossedText], seen: Sequence[Row]) -> None:
    """Refuses test texts on a group that was learned from or on which the layer is chosen.

    Raises:
        ProbeError: naming the first such group.
    """
    shared = sorted({text.group for text in texts} & {row.group for row in seen})
    if shared:
        raise ProbeError(
            f"test texts share {len(shared)} groups with training or validation (first: {shared[0]}), so they are no test; "
            "give every group to one of them."
        )


def split_pairs(
    pairs: Sequence[TextPair],
    validation: Sequence[RatedText],
    test: Sequence[RatedText],
    fractions: tuple[float, float],
    seed: int,
) -> dict[Split, list[TextPair]]:
    """Assigns whole groups to splits, by the stories' groups where there are some, else at random.

    Raises:
        ProbeError: where two splits would share a group, or a split would have no group.
    """
    groups = sorted({pair.group for pair in pairs})
    val_groups, test_groups = {s.group for s in validation}, {s.group for s in test}
    shared = sorted(val_groups & test_groups)
    if shared:
        raise ProbeError(
            f"validation and test stories share {len(shared)} groups (first: {shared[0]}), so the layer would be chosen "
            "on what it is judged by; give every group to one file."
        )
    free = [g for g in groups if g not in val_groups | test_groups]
    random.Random(seed).shuffle(free)
    for held_out, fraction in ((val_groups, fractions[0]), (test_groups, fractions[1])):
        if not held_out:
            taken = max(1, round(fraction * len(groups)))
            held_out.update(free[:taken])
            free = free[taken:]
    if len(free) < 2:
        raise ProbeError(
            f"too few groups: expected at least 2 left for training after validation and test took theirs, found "
            f"{len(free)} of {len(groups)}; add pairs on further topics or lower data.init_args.fractions."
        )
    split_of: dict[str, Split] = dict.fromkeys(groups, "train")
    split_of.update(dict.fromkeys(val_groups, "validation"))
    split_of.update(dict.fromkeys(test_groups, "test"))
    return {split: [p for p in pairs if split_of[p.group] == split] for split in SPLITS}


class _RowNumbers(Dataset[dict[str, int]]):
    """Row number and label; the label is -1 where a row has no class or only pads a process's share."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.labels = labels(rows)

    def __getitem__(self, index: int) -> dict[str, int]:
        return {"row": max(index, 0), "label": self.labels[index] if index >= 0 else -1}

    def __len__(self) -> int:
        return len(self.labels)


class RowSampler(Sampler[int]):
    """Shares rows among processes in an order of (seed, epoch); pads a short share with -1, which counts nothing.

    Lightning's own distributed sampler repeats rows, which gives two processes another direction than one.
    """

    def __init__(self, n_rows: int, seed: int, shuffle: bool, rank: int, world: int) -> None:
        self.n_rows, self.seed, self.shuffle, self.rank, self.world, self.epoch = n_rows, seed, shuffle, rank, world, 0

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning at each epoch."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        order: Tensor = torch.randperm(self.n_rows, generator=generator) if self.shuffle else torch.arange(self.n_rows)
        share = order[self.rank :: self.world].tolist()
        yield from share + [-1] * (len(self) - len(share))

    def __len__(self) -> int:
        return -(-self.n_rows // self.world)
