"""ContrastData: the LightningDataModule that splits rows by group and yields row numbers and labels, never texts."""

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import lightning as L
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from probe.errors import ProbeError
from probe.rows import Passage, Preference, RatedText, Span, TextPair, read_rows

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")


@dataclass(frozen=True)
class Row:
    """One text to read: a side of a pair, a rated story, or one of two stories that people compared."""

    prompt: str
    response: str | None
    group: str
    truth: float
    """The rating; for a side of a pair 1 (creative) or 0; for a compared story 1 (preferred), 0, or 1/2 (tie)."""
    pair: int = -1
    """Which pair of its split it belongs to; -1 for a story."""
    raters: Mapping[str, float] | None = None
    """Each rater's own rating of a story, where it is known."""
    comparison: int = -1
    """Which comparison of its split it belongs to; -1 for none."""

    def passage(self, span: Span) -> Passage:
        """What the LM reads; a story is always read over its own text."""
        if span == "prompt" and self.pair >= 0:
            return Passage(self.prompt)
        if self.response is None:
            raise ProbeError(
                f"span `response` needs `response_creative` and `response_uncreative` in every pair, found none for "
                f"{self.prompt[:60]!r}; set model.init_args.span to `prompt` or add the responses."
            )
        return Passage(self.prompt, self.response)


class SplitRows(L.LightningDataModule):
    """Rows by split, yielded as row numbers and labels.

    Args:
        rows: The rows of each split.
        pairs: The training pairs, for the record of what was learned from.
        batch_size: Rows per batch; 0 is one batch of all rows, which L-BFGS needs.
        seed: Orders rows.
    """

    def __init__(
        self, rows: dict[Split, list[Row]], pairs: Sequence[TextPair], batch_size: int = 0, seed: int = 0
    ) -> None:
        super().__init__()
        self.rows, self.pairs, self.batch_size, self.seed = rows, pairs, batch_size, seed

    def _loader(self, split: Split, shuffle: bool = False) -> DataLoader[Any]:
        rows = self.rows[split]
        trainer = self.trainer
        sampler = RowSampler(
            len(rows), self.seed, shuffle, *((trainer.global_rank, trainer.world_size) if trainer else (0, 1))
        )
        return DataLoader(_RowNumbers(rows), batch_size=self.batch_size or len(rows), sampler=sampler)

    def train_dataloader(self) -> DataLoader[Any]:
        """Sides of the training pairs, in an order that depends on seed and epoch only."""
        return self._loader("train", shuffle=True)

    def val_dataloader(self) -> DataLoader[Any]:
        """Held-out pairs and validation stories."""
        return self._loader("validation")

    def test_dataloader(self) -> DataLoader[Any]:
        """Test pairs and test stories."""
        return self._loader("test")

    def predict_dataloader(self) -> DataLoader[Any]:
        """The test rows, to write their scores to a file."""
        return self._loader("test")


class ContrastData(SplitRows):
    """Contrastive pairs to learn from, and rated stories to be judged on.

    Pairs whose group appears in the test (validation) stories are held out for test (validation). Without such
    stories, groups are split at random by `fractions`, and the classes themselves are the truth.

    Args:
        pairs: JSONL or CSV (so for all files here) of contrastive pairs: creative, uncreative, group, and optionally
            response_creative and response_uncreative.
        validation_stories: JSONL of rated texts (text, rating, group, optionally prompt) on which the layer is chosen.
        test_stories: JSONL of rated texts on which the result is read, once; with `raters` their agreement is reported.
        test_preferences: JSONL of compared texts (text_a, text_b, preferred, group, optionally prompt), read on test.
        fractions: Share of groups for validation and for test where no stories decide it.
        batch_size: Rows per batch; 0 is one batch of all rows, which L-BFGS needs.
        seed: Orders rows and splits groups.
    """

    def __init__(
        self,
        pairs: str,
        validation_stories: str | None = None,
        test_stories: str | None = None,
        test_preferences: str | None = None,
        fractions: tuple[float, float] = (0.2, 0.2),
        batch_size: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__({}, [], batch_size, seed)
        self.files = (pairs, validation_stories, test_stories)
        self.test_preferences, self.fractions = test_preferences, fractions

    def setup(self, stage: str) -> None:
        """Reads, checks and splits the rows, once for all stages."""
        if self.rows:
            return
        pairs_file, *story_files = self.files
        stories = [read_rows(file, RatedText) if file else [] for file in story_files]
        pairs = split_pairs(read_rows(str(pairs_file), TextPair), stories[0], stories[1], self.fractions, self.seed)
        self.pairs = pairs["train"]
        self.rows["train"] = pair_rows(pairs["train"])
        for split, rated in zip(SPLITS[1:], stories, strict=True):
            self.rows[split] = pair_rows(pairs[split]) + story_rows(rated)
        if self.test_preferences:
            preferences = read_rows(self.test_preferences, Preference)
            check_unseen(preferences, self.rows["train"] + self.rows["validation"])
            self.rows["test"] += preference_rows(preferences)


def pair_rows(pairs: Sequence[TextPair]) -> list[Row]:
    """Both sides of each pair as rows 2i (creative) and 2i + 1 (uncreative)."""
    return [
        row
        for i, p in enumerate(pairs)
        for row in (
            Row(p.creative, p.response_creative, p.group, 1.0, i),
            Row(p.uncreative, p.response_uncreative, p.group, 0.0, i),
        )
    ]


def story_rows(stories: Sequence[RatedText]) -> list[Row]:
    """Each rated story as one row."""
    return [Row(s.prompt, s.text, s.group, s.rating, raters=s.raters) for s in stories]


def preference_rows(preferences: Sequence[Preference]) -> list[Row]:
    """Both texts of each comparison, one after the other."""
    won = {"a": (1.0, 0.0), "b": (0.0, 1.0), "tie": (0.5, 0.5)}
    return [
        Row(p.prompt, text, p.group, truth, comparison=i)
        for i, p in enumerate(preferences)
        for text, truth in zip((p.text_a, p.text_b), won[p.preferred], strict=True)
    ]


def check_unseen(preferences: Sequence[Preference], seen: Sequence[Row]) -> None:
    """Refuses preferences on a group that was learned from or on which the layer is chosen.

    Raises:
        ProbeError: naming the first such group.
    """
    shared = sorted({p.group for p in preferences} & {row.group for row in seen})
    if shared:
        raise ProbeError(
            f"test preferences share {len(shared)} groups with training or validation (first: {shared[0]}), so they "
            "are no test; give every group to one of them."
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
        self.rows = rows

    def __getitem__(self, index: int) -> dict[str, int]:
        row = self.rows[max(index, 0)]
        label = int(row.truth) if row.pair >= 0 and index >= 0 else -1
        return {"row": max(index, 0), "label": label}

    def __len__(self) -> int:
        return len(self.rows)


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
