"""What is read: rows, which of them belong together, what of a row the LM reads, and how its states become one vector."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from probe.data.rows import CrossedText, Preference, RatedText, TextPair
from probe.errors import ProbeError

Side = Literal["creative", "uncreative"]
Span = Literal["prompt", "reply", "response"]
"""Where a side of a pair is read: over the instruction, at the last token of the rendered template, where the reply begins, or
over the text written in answer."""
Pooling = Literal["last", "mean", "unit_mean"]
"""How the states of a span become one vector."""


@dataclass(frozen=True)
class Reading:
    """Where texts are read and how, which is a part of what a direction is.

    Args:
        span: Where pairs are read: over the instruction (prompt), where the reply to it begins (reply), or over the text
            that answers it (response).
        pooling: How a text's states become one vector.
    """

    span: Span
    pooling: Pooling


@dataclass(frozen=True)
class Passage:
    """What the LM reads; the pooled span is the response where there is one, else the prompt or the start of the reply."""

    prompt: str
    response: str | None = None
    at_reply: bool = False
    """Read the last token of the rendered template alone, where the reply begins, in place of the prompt's tokens."""

    @property
    def pooled(self) -> str:
        """The text of the pooled span."""
        return self.prompt if self.response is None else self.response


@dataclass(frozen=True)
class Row:
    """One text to read: a side of a pair, a rated story, or one of two stories that people compared."""

    prompt: str
    response: str | None
    group: str
    truth: float
    """The rating; for a side of a pair 1 (creative) or 0; for a compared story 1 (preferred), 0, or 1/2 (tie)."""
    side: Side | None = None
    """Which side of a pair it is; None for a story."""
    pair: int | None = None
    """Which contrastive pair of its split it is a side of, or which comparison of two stories it stands in."""
    raters: Mapping[str, float] | None = None
    """Each rater's own rating of a story, where it is known."""
    cell: tuple[int, int] | None = None
    """Of a text in a crossed set: whether its idea is inventive, and whether its style is ornate."""
    source: str | None = None
    """Who wrote it, where that is known."""

    @property
    def is_story(self) -> bool:
        """Whether it stands alone: neither in a pair nor in a crossed set."""
        return self.pair is None and self.cell is None

    def passage(self, span: Span) -> Passage:
        """What the LM reads; a story is always read over its own text."""
        return SPANS[span](self) if self.side else _answer(self)


def identity(example: Row | RatedText | TextPair) -> dict[str, Any]:
    """What makes it the one it is, as JSON; who wrote it is told in figures alone, and decides nothing."""
    return {name: value for name, value in asdict(example).items() if name != "source"}


def _answer(row: Row) -> Passage:
    if row.response is None:
        raise ProbeError(
            f"span `response` needs `response_creative` and `response_uncreative` in every pair, found none for "
            f"{row.prompt[:60]!r}; set model.init_args.span to `prompt` or add the responses."
        )
    return Passage(row.prompt, row.response)


SPANS: dict[Span, Callable[[Row], Passage]] = {
    "prompt": lambda row: Passage(row.prompt),
    "reply": lambda row: Passage(row.prompt, at_reply=True),
    "response": _answer,
}
"""What each span reads of a side of a pair."""


def pair_rows(pairs: Sequence[TextPair]) -> list[Row]:
    """Both sides of each pair."""
    return [
        row
        for i, p in enumerate(pairs)
        for row in (
            Row(p.creative, p.response_creative, p.group, 1.0, "creative", i),
            Row(p.uncreative, p.response_uncreative, p.group, 0.0, "uncreative", i),
        )
    ]


def story_rows(stories: Sequence[RatedText]) -> list[Row]:
    """Each rated story as one row."""
    return [Row(s.prompt, s.text, s.group, s.rating, raters=s.raters, source=s.source) for s in stories]


def labels(rows: Sequence[Row]) -> list[int]:
    """The class of each row: 1 creative, 0 uncreative, -1 neither.

    Sides of pairs have one; where there are none, the highest and the lowest quarter of the ratings do.
    """
    sides = [None if row.side is None else int(row.side == "creative") for row in rows]
    if any(side is not None for side in sides) or not rows:
        return [-1 if side is None else side for side in sides]
    ratings = np.array([row.truth for row in rows])
    low, high = np.quantile(ratings, [0.25, 0.75])
    if low == high:  # more than half of the texts share one rating
        low, high = ratings.min(), ratings.max()
    return [int(label) for label in np.where(ratings >= high, 1, np.where(ratings <= low, 0, -1))]


def preference_rows(preferences: Sequence[Preference]) -> list[Row]:
    """Both texts of each comparison."""
    won = {"a": (1.0, 0.0), "b": (0.0, 1.0), "tie": (0.5, 0.5)}
    return [
        Row(p.prompt, text, p.group, truth, pair=i, source=source)
        for i, p in enumerate(preferences)
        for text, truth, source in zip((p.text_a, p.text_b), won[p.preferred], (p.source_a, p.source_b), strict=True)
    ]


def crossed_rows(texts: Sequence[CrossedText]) -> list[Row]:
    """Each text of a crossed set; its idea is the truth."""
    cells = [(int(t.idea == "inventive"), int(t.style == "ornate")) for t in texts]
    return [Row(t.prompt, t.text, t.group, float(cell[0]), cell=cell) for t, cell in zip(texts, cells, strict=True)]


def pairs(rows: Sequence[Row]) -> NDArray[np.intp]:
    """Numbers `[P, 2]` of the rows of each pair: its creative side and its uncreative one, or two stories that were compared."""
    members: dict[tuple[bool, int], list[int]] = {}
    for i, row in enumerate(rows):
        if row.pair is not None:
            members.setdefault((row.side is None, row.pair), []).append(i)
    ordered = [sorted(both, key=lambda i: rows[i].side == "uncreative") for both in members.values()]
    return np.array(ordered, dtype=np.intp).reshape(-1, 2)


def crossed(rows: Sequence[Row]) -> NDArray[np.intp]:
    """Numbers `[P, 4]` of the rows of each topic of a crossed set: ordinary plain and ornate, inventive likewise."""
    cells = {(row.group, row.cell): i for i, row in enumerate(rows) if row.cell}
    topics = dict.fromkeys(group for group, _ in cells)
    order = [(idea, style) for idea in (0, 1) for style in (0, 1)]
    return np.array([[cells[topic, cell] for cell in order] for topic in topics], dtype=np.intp).reshape(-1, 4)
