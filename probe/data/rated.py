"""RatedData: texts that people rated, to learn from and to be judged by."""

import random
import warnings
from collections.abc import Sequence

from probe.data.reading import preference_rows, story_rows
from probe.data.rows import Preference, RatedText, read_rows
from probe.data.splits import SPLITS, Split, SplitRows, check_unseen
from probe.errors import ProbeError
from probe.options.types import FilePath, NonNegativeInt, Seed, Share


class RatedData(SplitRows):
    """Rated texts, in place of pairs: scorers that learn from ratings see them all, the others the extremes.

    Where a scorer needs two classes they are the highest and the lowest quarter of the training ratings.

    Args:
        texts: JSONL or CSV of rated texts: text, rating, group, and optionally prompt, `raters` (CSV: a column rater_NAME
            each) and split (train, val or test); where no row has a split, groups are split at random by `fractions`.
        test_preferences: JSONL of compared texts (text_a, text_b, preferred, group, optionally prompt), read on test.
        fractions: Share of groups for validation and for test.
        batch_size: Rows per batch; 0 is one batch of all rows, which L-BFGS needs.
        seed: Orders rows and splits groups.
        concept: What the texts differ in, an adjective; given once, as `--concept`.
    """

    examples_are = "texts"

    def __init__(
        self,
        texts: FilePath,
        test_preferences: FilePath | None = None,
        fractions: tuple[Share, Share] = (0.2, 0.2),
        batch_size: NonNegativeInt = 0,
        seed: Seed = 0,
        concept: str = "creative",
    ) -> None:
        super().__init__({}, [], batch_size, seed)
        self.texts, self.test_preferences = texts, test_preferences
        self.fractions, self.concept = fractions, concept

    def setup(self, stage: str) -> None:
        """Reads, checks and splits the rows, once for all stages."""
        if self.rows:
            return
        texts = split_texts(read_rows(self.texts, RatedText), self.fractions, self.seed)
        rows = {split: story_rows(texts[split]) for split in SPLITS}
        if self.test_preferences:
            preferences = read_rows(self.test_preferences, Preference)
            check_unseen(preferences, rows["train"] + rows["validation"])
            rows["test"] += preference_rows(preferences)
        self.examples, self.rows = texts["train"], rows


def split_texts(texts: Sequence[RatedText], fractions: tuple[float, float], seed: int) -> dict[Split, list[RatedText]]:
    """Splits rated texts as their own column says; where there is none, whole groups at random.

    Raises:
        ProbeError: where some rows have a split and others none, where a split would be empty, or where all training texts
            are rated alike.
    """
    own = [text.split for text in texts]
    if any(own):
        if not all(own):
            raise ProbeError(
                f"expected a `split` in every row or in none, found {own.count(None)} of {len(own)} rows without; fill them in."
            )
        of_text: list[Split] = ["validation" if split == "val" else split for split in own if split]
    else:
        split_of = _split_groups(sorted({text.group for text in texts}), fractions, seed)
        of_text = [split_of[text.group] for text in texts]
    parts = {split: [t for t, s in zip(texts, of_text, strict=True) if s == split] for split in SPLITS}
    for split, members in parts.items():
        if len({text.rating for text in members}) < 2:
            raise ProbeError(
                f"expected texts with different ratings in every split, found {len(members)} texts of one rating for {split}; "
                "add texts, groups or ratings."
            )
    groups = {split: {text.group for text in members} for split, members in parts.items()}
    if shared := groups["test"] & (groups["train"] | groups["validation"]):
        warnings.warn(
            f"by their own `split`, {len(shared)} of {len(groups['test'])} test groups are also learned from or chosen on, so "
            "the test says nothing about groups that are new; take the column out to hold whole groups out.",
            stacklevel=2,
        )
    return parts


def _split_groups(groups: list[str], fractions: tuple[float, float], seed: int) -> dict[str, Split]:
    random.Random(seed).shuffle(groups)
    n_validation, n_test = (max(1, round(fraction * len(groups))) for fraction in fractions)
    if len(groups) - n_validation - n_test < 2:
        raise ProbeError(
            f"too few groups: expected at least 2 left for training after {n_validation} for validation and {n_test} for test, "
            f"found {len(groups)} in all; add texts on further topics or lower data.init_args.fractions."
        )
    split_of: dict[str, Split] = dict.fromkeys(groups, "train")
    split_of.update(dict.fromkeys(groups[:n_validation], "validation"))
    split_of.update(dict.fromkeys(groups[n_validation : n_validation + n_test], "test"))
    return split_of
