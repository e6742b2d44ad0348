"""Pairs made from a template, as tutorials make them: one instruction with a word exchanged, filled in again and again."""

from collections import Counter
from collections.abc import Sequence

Words = Sequence[str]
TEMPLATE = 0.5
"""Share of pairs that differ in the same words as another from which the set is a template, filled in."""


def templated(sides: Sequence[tuple[Words, Words]]) -> float:
    """Share of pairs whose sides differ in the same words as those of another pair."""
    replaced = [(frozenset(a) - frozenset(b), frozenset(b) - frozenset(a)) for a, b in sides]
    counts = Counter(differ for differ in replaced if any(differ))
    return sum(n for n in counts.values() if n > 1) / len(sides)


def without_frame(texts: Sequence[Words]) -> list[Words]:
    """What fills the template: words that most texts share tell no two of them apart. A text of nothing else stays whole."""
    counts = Counter(word for words in texts for word in set(words))
    return [[word for word in words if counts[word] <= len(texts) / 2] or words for words in texts]
