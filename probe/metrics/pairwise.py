"""Which of two texts is more creative: asked in both orders, or told by a number, and the share of comparisons won."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from probe.errors import ProbeError
from probe.metrics.bootstrap import Estimate, group_bootstrap
from probe.metrics.ranks import Floats, pair_accuracy

Winner = Literal["a", "b", "tie"]
"""A verdict is a winner, or None where there was no readable reply or it cannot be told."""

MARGIN: Mapping[Winner, float] = {"a": 1.0, "tie": 0.0, "b": -1.0}
"""A verdict as a number: which side won, seen from a."""

QUESTION = """Below are an instruction and two texts that answer it. Which text is more {concept}?

=== Instruction ===
{prompt}
=== End of instruction ===

=== Text A ===
{text_a}
=== End of text A ===

=== Text B ===
{text_b}
=== End of text B ===

Which text is more {concept}? Answer with one letter alone: A or B."""


@dataclass(frozen=True)
class Comparison:
    """Two answers to one instruction, and the sets of texts that they come from."""

    prompt: str
    group: str
    set_a: str
    set_b: str
    text_a: str
    text_b: str

    @property
    def complete(self) -> bool:
        """Whether there is something to read on both sides; if not, nobody is asked."""
        return bool(self.text_a.strip() and self.text_b.strip())

    @property
    def swapped(self) -> "Comparison":
        """The same with its sides exchanged."""
        return replace(self, set_a=self.set_b, set_b=self.set_a, text_a=self.text_b, text_b=self.text_a)


@dataclass(frozen=True)
class Verdicts:
    """What a judge said of comparisons, each asked in both orders."""

    verdicts: list[Winner | None]
    """A text wins if it is named in both orders; if the replies disagree it is a tie, if one is unreadable None."""
    n_replies: int
    n_unreadable: int
    """Of the replies, two of which make a verdict."""
    first_named: float
    """Share of the readable replies that named the text shown first: 0.5 for a judge without position bias."""


@dataclass(frozen=True)
class WinRate:
    """How often the texts of one set beat those of another."""

    rate: Estimate
    """Share of comparisons won by `set_a`, ties counted half, unread ones left out."""
    n_ties: int
    n_unread: int


def comparisons(
    sets: Mapping[str, Sequence[str]], prompts: Sequence[str], groups: Sequence[str], pairs: Sequence[tuple[str, str]]
) -> list[Comparison]:
    """Compares, for each pair of sets, their texts prompt by prompt; those with an empty text stay in, as unread.

    Args:
        sets: Name -> a text for each prompt.
        prompts: The instructions that the texts answer.
        groups: The topic of each prompt: the unit of the bootstrap.
        pairs: Names of the sets to compare.
    """
    for name in dict.fromkeys(name for pair in pairs for name in pair):
        n = len(sets.get(name, ()))
        if n != len(prompts):
            raise ProbeError(
                f"set `{name}`: expected {len(prompts)} texts, one for each prompt, found {n}; name a whole set."
            )
    return [
        Comparison(prompt, group, a, b, text_a, text_b)
        for a, b in pairs
        for prompt, group, text_a, text_b in zip(prompts, groups, sets[a], sets[b], strict=True)
    ]


def by_judge(
    comparisons: Sequence[Comparison], ask_all: Callable[[Sequence[str]], list[str]], concept: str = "creative"
) -> Verdicts:
    """Has a judge compare texts, each pair in both orders, since judges favour a position.

    Source: Zheng et al. 2023, "Judging LLM-as-a-Judge with MT-Bench and Chatbot Arena", arXiv 2306.05685, section 3.4.

    Args:
        comparisons: What to judge.
        ask_all: Replies in the order of the questions; it is called once.
        concept: An adjective.
    """
    asked = [i for i, comparison in enumerate(comparisons) if comparison.complete]
    both = [order for i in asked for order in (comparisons[i], comparisons[i].swapped)]
    replies = ask_all(
        [QUESTION.format(concept=concept, prompt=c.prompt, text_a=c.text_a, text_b=c.text_b) for c in both]
    )
    named = [read_reply(reply, concept) for reply in replies]
    verdicts: list[Winner | None] = [None] * len(comparisons)
    for i, straight, reverse in zip(asked, named[::2], named[1::2], strict=True):
        if straight and reverse:
            verdicts[i] = "tie" if straight == reverse else "a" if straight == "A" else "b"
    readable = [letter for letter in named if letter]
    first = readable.count("A") / len(readable) if readable else float("nan")
    return Verdicts(verdicts, len(named), len(named) - len(readable), first)


_BLOCK = ("text", "story")
_NOUNS = (*_BLOCK, "answer", "option", "choice", "response")
_LEAD = (
    *_NOUNS, "texts", "stories", "the", "my", "final", "i", "i'd", "it", "would", "be", "is", "choose", "pick", "prefer", "say",
    "more", "most", "one", "of", "two",
)  # fmt: skip
"""All that may stand before the letter. A list of what may not ("less", "not", "neither", ...) would never be complete."""


def read_reply(reply: str, concept: str = "creative") -> Literal["A", "B"] | None:
    """The one text that a reply names, or None: better unreadable than wrong.

    The reply, or its first line where the rest names no other text, must be a letter, with nothing but words such as
    "the answer is" before it, or such as "is more creative" after it. An article before prose is no answer.
    """
    lines = [words for line in reply.splitlines() if (words := _words(line))]
    adjective = re.escape(" ".join(_words(concept)))
    before = "|".join((*_LEAD, adjective))
    after = rf"(?: is (?:the )?(?:more|most) {adjective}(?: one| text| story)?)?"
    answer = re.fullmatch(rf"((?:(?:{before}) )*)([AB]){after}", " ".join(lines[0]), re.IGNORECASE) if lines else None
    if not answer:
        return None
    lead, letter = answer[1].lower().split(), answer[2]
    if letter == "a" and lead and lead[-1] not in _NOUNS:
        return None  # "The more creative text is a", cut off before the noun
    named: Literal["A", "B"] = "A" if letter in "Aa" else "B"
    rest = " ".join(word for line in lines[1:] for word in line)
    if rest and lead and set(lead) <= set(_BLOCK):
        return None  # "Text A:" above a text is our heading, echoed
    other = "B" if named == "A" else "A"
    return None if re.search(rf"\b{other}\b|(?i:\b(?:{'|'.join(_NOUNS)}) {other}\b)", rest) else named


def _words(line: str) -> list[str]:
    return re.findall(r"[^\W_]+(?:'[^\W_]+)*", line.replace("’", "'"))


def by_number(values_a: Sequence[float | None], values_b: Sequence[float | None]) -> list[Winner | None]:
    """The side with the higher number wins; without a number on both sides it cannot be told."""
    return [_higher(a, b) for a, b in zip(values_a, values_b, strict=True)]


def _higher(a: float | None, b: float | None) -> Winner | None:
    if a is None or b is None or np.isnan(a) or np.isnan(b):
        return None
    return "a" if a > b else "b" if b > a else "tie"


def oriented(
    comparisons: Sequence[Comparison], verdicts: Sequence[Winner | None], order: Sequence[str]
) -> tuple[list[Comparison], list[Winner | None]]:
    """Turns comparisons, with their verdicts, so that `set_a` is the set that comes first in the order."""
    place = {name: i for i, name in reversed(list(enumerate(order)))}
    missing = {name for c in comparisons for name in (c.set_a, c.set_b)} - set(place)
    if missing:
        raise ProbeError(f"expected all sets in the order {list(order)}, found also {sorted(missing)}; add them.")
    other: dict[Winner | None, Winner | None] = {"a": "b", "b": "a"}
    turn = [place[c.set_a] > place[c.set_b] for c in comparisons]
    return [c.swapped if t else c for c, t in zip(comparisons, turn, strict=True)], [
        other.get(v, v) if t else v for v, t in zip(verdicts, turn, strict=True)
    ]


def win_rates(comparisons: Sequence[Comparison], verdicts: Sequence[Winner | None]) -> dict[tuple[str, str], WinRate]:
    """(set_a, set_b) -> how often the texts of `set_a` won, with a group-bootstrap interval."""
    of_pair: dict[tuple[str, str], list[tuple[str, Winner | None]]] = {}
    for c, verdict in zip(comparisons, verdicts, strict=True):
        of_pair.setdefault((c.set_a, c.set_b), []).append((c.group, verdict))
    return {pair: _win_rate(judged) for pair, judged in of_pair.items()}


def _win_rate(judged: Sequence[tuple[str, Winner | None]]) -> WinRate:
    read = [(group, verdict) for group, verdict in judged if verdict]
    margins: Floats = np.array([MARGIN[verdict] for _, verdict in read], dtype=np.float64)
    (rate,) = group_bootstrap(lambda w: pair_accuracy(margins, 0 * margins, w), [group for group, _ in read])
    return WinRate(rate, sum(verdict == "tie" for _, verdict in read), len(judged) - len(read))
