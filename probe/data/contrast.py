"""A contrast to learn from: pairs as they stand in a file, what people preferred, or the extremes of what they rated."""

from collections.abc import Sequence
from pathlib import Path

from probe.data.rows import Preference, RatedText, TextPair, first_of, read_rows
from probe.errors import ProbeError


def read_contrast(path: str | Path) -> tuple[list[TextPair], list[RatedText]]:
    """Reads the pairs of a file of pairs; of a file of rated texts, its extremes as pairs, and all of its texts.

    Of a file of comparisons, the preferred text is paired with the other, under the same instruction; a tie makes no pair.
    Each text of a group's highest rating is paired with one of its lowest, under the same instruction, so that the sides
    differ in what was rated alone. A group whose texts are all rated alike makes no pair.

    Raises:
        ProbeError: as `read_rows`; also where no group of rated texts holds two ratings, or all comparisons are ties.
    """
    first = first_of(path)
    if "text_a" in first:
        decided = [p for p in read_rows(path, Preference) if p.preferred != "tie"]
        if not decided:
            raise ProbeError(
                f"{path}: expected comparisons in which one text is preferred, found ties alone; add some."
            )
        return [_preferred(p) for p in decided], []
    if "text" not in first:
        return read_rows(path, TextPair), []
    rated = read_rows(path, RatedText)
    by_group: dict[str, list[RatedText]] = {}
    for text in rated:
        by_group.setdefault(text.group, []).append(text)
    pairs = [pair for texts in by_group.values() for pair in _extremes(texts)]
    if not pairs:
        raise ProbeError(
            f"{path}: expected groups in which some texts are rated higher than others, found none; give texts on one topic "
            "the same `group`."
        )
    return pairs, rated


def _preferred(compared: Preference) -> TextPair:
    won, lost = compared.text_a, compared.text_b
    if compared.preferred == "b":
        won, lost = lost, won
    return TextPair(compared.prompt, compared.prompt, compared.group, won, lost)


def _extremes(texts: Sequence[RatedText]) -> list[TextPair]:
    high, low = (pick(text.rating for text in texts) for pick in (max, min))
    tops, bottoms = ([text for text in texts if text.rating == end] for end in (high, low))
    if high == low:
        return []
    return [
        TextPair(top.prompt, bottom.prompt, top.group, top.text, bottom.text)
        for top, bottom in zip(tops, bottoms, strict=False)
    ]
