"""Cross-fitting over groups: every group is tested once, by scorers that were fitted and chosen on other groups."""

import random
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from probe.data.concept import CREATIVE
from probe.data.reading import Passage, Row, Span, crossed_rows, pair_rows, preference_rows, story_rows
from probe.data.rows import CrossedText, Preference, RatedText, TextPair
from probe.data.splits import Split, SplitRows
from probe.errors import ProbeError

VALIDATION_SHARE = 0.2
"""Of the training groups, where no rated stories decide on which ones the layer is chosen."""


@dataclass(frozen=True)
class ContrastSet:
    """Pairs, or rated texts, to learn from, read over one span."""

    examples: Sequence[TextPair] | Sequence[RatedText]
    span: Span

    @property
    def pairs(self) -> list[TextPair]:
        """The pairs; none where ratings are learned from."""
        return [example for example in self.examples if isinstance(example, TextPair)]

    @property
    def rated(self) -> list[RatedText]:
        """The rated texts."""
        return [example for example in self.examples if isinstance(example, RatedText)]

    @property
    def rows(self) -> list[Row]:
        """Both sides of each pair, or each text."""
        return pair_rows(self.pairs) + story_rows(self.rated)

    @property
    def groups(self) -> set[str]:
        """The topics."""
        return {example.group for example in self.examples}

    def of(self, groups: Container[str]) -> "ContrastSet":
        """The same on some topics alone."""
        kept = [example for example in self.examples if example.group in groups]
        return ContrastSet(kept, self.span)  # type: ignore[arg-type]  # of one kind, as before

    def drawn(self, n: int, seed: int) -> "ContrastSet":
        """N of the examples at random, in their order; fewer are among more.

        Raises:
            ProbeError: where there are fewer.
        """
        if n > len(self.examples):
            raise ProbeError(
                f"examples: expected at most {len(self.examples)}, as many as there are to learn from, found {n}; lower it."
            )
        order = random.Random(seed).sample(range(len(self.examples)), len(self.examples))
        return ContrastSet([self.examples[i] for i in sorted(order[:n])], self.span)  # type: ignore[arg-type]


@dataclass(frozen=True)
class TestSet:
    """Rows to be judged by: the sides of pairs, rated stories, or compared stories."""

    __test__ = False  # no test case, whatever pytest makes of its name
    rows: Sequence[Row]
    span: Span = "response"

    @property
    def compared(self) -> bool:
        """Whether each row stands in a pair."""
        return self.rows[0].pair is not None


@dataclass(frozen=True)
class Part:
    """A share of the groups to fit on: all but one fold, or one half of them (for the steadiness of a direction)."""

    kind: str
    index: int

    def __str__(self) -> str:
        return f"{self.kind} {self.index}"


class CrossFit:
    """What is learned from, what is judged by, and which group is tested when.

    Args:
        contrasts: Named sets of pairs or of rated texts; the first is the one that the scorers are compared on.
        rated: Named sets of rated stories.
        preferences: Named sets of compared stories.
        choose_on: The rated set on which, inside the training groups, layers and hyper-parameters are chosen.
        judged_on: The test set on which contestants are compared; the main pairs by default.
        n_folds: Shares of the groups.
        seed: Shares out the groups.
        concept: What the texts differ in, an adjective.
        crossed: Named sets of texts on which idea and style are crossed.

    Raises:
        ProbeError: where a fold would leave nothing to learn from.
    """

    def __init__(
        self,
        contrasts: Mapping[str, ContrastSet],
        rated: Mapping[str, Sequence[RatedText]],
        preferences: Mapping[str, Sequence[Preference]],
        choose_on: str | None = None,
        judged_on: str | None = None,
        n_folds: int = 5,
        seed: int = 0,
        concept: str = CREATIVE,
        crossed: Mapping[str, Sequence[CrossedText]] | None = None,
    ) -> None:
        names = [*contrasts, *rated, *preferences, *(crossed or {})]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ProbeError(
                f"expected every set to have a name of its own, found {twice[0]!r} twice; rename one of the files."
            )
        if n_folds < 2:
            raise ProbeError(f"--folds: expected at least 2, found {n_folds}; 5 is usual.")
        self.contrasts, self.choose_on, self.n_folds, self.seed = dict(contrasts), choose_on, n_folds, seed
        self.main, self.concept = next(iter(self.contrasts)), concept
        self.judged_on = judged_on or self.main
        self.tests = (
            {name: TestSet(c.rows, c.span) for name, c in contrasts.items()}
            | {name: TestSet(story_rows(stories)) for name, stories in rated.items()}
            | {name: TestSet(preference_rows(compared)) for name, compared in preferences.items()}
            | {name: TestSet(crossed_rows(texts)) for name, texts in (crossed or {}).items()}
        )
        self.fold_of = assign_folds(
            {name: {row.group for row in test.rows} for name, test in self.tests.items()}, n_folds, seed
        )
        for name, contrast in self.contrasts.items():
            if len(contrast.groups) < 2 * n_folds:
                raise ProbeError(
                    f"{name}: expected at least {2 * n_folds} groups for {n_folds} folds, found {len(contrast.groups)}; add "
                    "texts on further topics or lower --folds."
                )

    @property
    def folds(self) -> list[Part]:
        """One part per fold: fitted on the other folds, judged on this one."""
        return [Part("fold", i) for i in range(self.n_folds)]

    @property
    def halves(self) -> list[Part]:
        """Two parts without a common group."""
        return [Part("half", i) for i in range(2)]

    def metric_of(self, test: str) -> str:
        """What contestants are compared by on a test set: Spearman where there are ratings, else the share of comparisons."""
        row = self.tests[test].rows[0]
        return (
            "idea_accuracy"
            if row.cell
            else "spearman"
            if row.pair is None
            else "pair_accuracy"
            if row.side
            else "preference_accuracy"
        )

    @property
    def span(self) -> Span:
        """Where pairs are read, unless a contestant or a further set has a span of its own."""
        return self.contrasts[self.main].span

    def contrast_of(self, name: str | None) -> str:
        """The set that a contestant learns from: the one that it names, else the main one."""
        return name if name in self.contrasts else self.main

    def passages(self, test: str, span: Span) -> list[Passage]:
        """What a contestant with this span reads of each row of a test set; a set with a span of its own keeps it."""
        own = self.tests[test].span
        return [row.passage(span if own == self.span else own) for row in self.tests[test].rows]

    def fold(self, test: str) -> NDArray[np.intp]:
        """Fold `[N]` in which each row of a test set is judged."""
        return np.array([self.fold_of[row.group] for row in self.tests[test].rows], dtype=np.intp)

    def training(self, contrast: str, part: Part, batch_size: int, n_examples: int | None = None) -> SplitRows:
        """What one fit sees: examples of the part's groups to learn from, others of its groups to choose on; all, or so many."""
        examples = self.contrasts[contrast]
        own = self.choose_on == contrast
        chosen_on = self.tests[self.choose_on].rows if self.choose_on else []
        groups = [g for g in sorted(examples.groups | {r.group for r in chosen_on}) if self._trains(g, part)]
        with_examples = examples.groups & set(groups)
        held = {row.group for row in chosen_on} & set(groups)
        if len(held) < 2 or len(with_examples - held) < 2:  # no rated stories here, or of every topic to learn from
            candidates = sorted(held & with_examples) if len(held & with_examples) >= 4 else sorted(with_examples)
            random.Random(self.seed).shuffle(candidates)
            held = set(candidates[: max(2, round(VALIDATION_SHARE * len(candidates)))])
        learned, choosing = examples.of(with_examples - held), examples.of(held)
        if n_examples is not None:
            learned = learned.drawn(n_examples, self.seed)
            choosing = choosing.drawn(min(max(n_examples // 4, 2), len(choosing.examples)), self.seed)
        rows: dict[Split, list[Row]] = {
            "train": learned.rows,
            "validation": choosing.rows + [row for row in chosen_on if row.group in held and not own],
        }
        data = SplitRows(rows, learned.examples, batch_size, self.seed)
        data.concept, data.examples_are = self.concept, "texts" if learned.rated else "pairs"
        return data

    def _trains(self, group: str, part: Part) -> bool:
        if part.kind == "fold":
            return self.fold_of[group] != part.index
        # Halves of the folds' own order: alternate groups, so that each half has its share of every kind.
        return self._half_of[group] == part.index

    @cached_property
    def _half_of(self) -> dict[str, int]:
        return {group: i % 2 for i, group in enumerate(self.fold_of)}

    def rows_in(self, test: str, fold: int) -> NDArray[np.intp]:
        """Numbers of the rows of a test set that are judged in a fold."""
        return np.flatnonzero(self.fold(test) == fold)

    def crossed(self, fold: int) -> list[Passage]:
        """Each text of a fold's main pairs after each instruction: (uncreative, creative) instruction x text, flattened.

        Empty where the pairs have no responses.
        """
        if any(p.response_creative is None or p.response_uncreative is None for p in self.contrasts[self.main].pairs):
            return []
        pairs = [p for p in self.contrasts[self.main].pairs if self.fold_of[p.group] == fold]
        return [
            Passage(prompt, text)
            for p in pairs
            for prompt in (p.uncreative, p.creative)
            for text in (p.response_uncreative, p.response_creative)
        ]


def assign_folds(groups_of: Mapping[str, set[str]], n_folds: int, seed: int) -> dict[str, int]:
    """Fold of every group; groups that occur in the same sets are dealt out in turn, so every fold has its share of each."""
    everything = sorted(set().union(*groups_of.values()))
    random.Random(seed).shuffle(everything)
    everything.sort(key=lambda group: [group in groups for groups in groups_of.values()])
    return {group: i % n_folds for i, group in enumerate(everything)}
