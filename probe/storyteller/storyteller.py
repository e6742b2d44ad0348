"""The embedded model organism's language: a grammar with a planted switch, and the oracle that reads it back.

A story has a *level* in [0, 1]: the chance that each of its sentences is built on an *inventive* frame rather than a
*plain* one. Season, hour, weather, genre, mood, tense, naming of the hero, determiner, aside, dialogue, its verb and
sentence length vary independently of it, so the register is one factor among many. Frames come in two families, A and
B, that share no frame: a direction learned on A is tested on B. The words are in `storyteller.yaml`; this file holds
the rules.
"""

import functools
import itertools
import random
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

Register = Literal["plain", "inventive"]
Family = Literal["A", "B", "mixed"]
Side = Literal["creative", "uncreative", "neutral"]

OPENERS = (
    "Write a story in which",
    "Tell me a story where",
    "Write a short tale in which",
    "Please write a story where",
    "I want a story in which",
)
STYLE_SUFFIX: dict[Register, str] = {"inventive": " Be inventive.", "plain": " Keep it plain."}
SLOTS = {"name": "{N}", "job": "{J}", "place": "{L}", "thing": "{X}"}


@functools.cache
def grammar() -> dict[str, Any]:
    """Reads the word lists of the language, once."""
    words: dict[str, Any] = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8"))
    words["fillers"] = {kind: text.split() for kind, text in words["fillers"].items()}
    return words


@dataclass(frozen=True)
class Premise:
    """One filled premise template. `group` names the template: the unit of splitting and of the bootstrap."""

    group: str
    opener: str
    stem: str
    twists: dict[str, str]
    filling: dict[str, str]
    """Slot letter -> filler, e.g. N -> Mara."""

    def instruction(self, side: Side, suffix: Register | None = None) -> str:
        """Renders the instruction; the neutral side is the stem without a continuation."""
        clause = self.stem if side == "neutral" else f"{self.stem}, {self.twists[side]}"
        text = f"{self.opener} {clause}".format(**self.filling) + "."
        return text + (STYLE_SUFFIX[suffix] if suffix else "")


@dataclass(frozen=True)
class Story:
    """A story and what the grammar meant by it."""

    text: str
    level: float
    inventive_share: float
    n_sentences: int
    factors: dict[str, str]


def sample_premise(rng: random.Random, template: int) -> Premise:
    """Fills premise template number `template` with people, a place and a thing."""
    fillers = grammar()["fillers"]
    hero, other = rng.sample(fillers["name"], 2)
    filling = {"N": hero, "O": other} | {SLOTS[k][1]: rng.choice(fillers[k]) for k in ("job", "place", "thing")}
    row = grammar()["premises"][template]
    twists = {"creative": row["creative"], "uncreative": row["uncreative"]}
    return Premise(f"premise-{template:03d}", rng.choice(OPENERS), row["stem"], twists, filling)


def sample_story(rng: random.Random, premise: Premise, level: float, family: Family, n_sentences: int) -> Story:
    """Writes one story of the premise; every factor but the register is drawn independently of `level`.

    A story keeps to one lead, one tail, one aside, one determiner and one speaker: its manner weighs as much as its register.
    """
    words = grammar()
    factors = {kind: rng.choice(sorted(words["leads"][kind])) for kind in ("season", "hour", "weather")}
    factors |= {kind: rng.choice(sorted(words["tails"][kind])) for kind in ("genre", "mood")}
    factors |= {
        "tense": rng.choice(("past", "present")),
        "hero": rng.choice(("I", "name", "job")),
        "determiner": rng.choice(words["determiners"]),
        "aside": rng.choice(words["asides"]),
        "speech": rng.choice(sorted(words["speech"])),
        "dialogue": rng.choice(("rare", "often")),
        "sentences": rng.choice(("short", "long")),
    }
    p_phrase = {"short": 0.5, "long": 1.0}[factors["sentences"]]
    p_speech = {"rare": 0.1, "often": 0.9}[factors["dialogue"]]

    def phrase(where: str) -> str:
        kind = rng.choice(sorted(words[where]))
        chosen: str = rng.choice(words[where][kind][factors[kind]])
        return chosen

    lead, tail = phrase("leads"), phrase("tails")
    says = factors["speech"] if factors["tense"] == "past" else words["speech"][factors["speech"]]
    speaker = premise.filling[rng.choice("NO")]
    registers: list[Register] = ["inventive" if rng.random() < level else "plain" for _ in range(n_sentences)]
    pool = {r: _frames_of(rng, r, family) for r in ("plain", "inventive")}
    sentences = []
    for register in registers:
        core = _inflect(next(pool[register]), premise.filling, factors)
        if rng.random() < p_phrase:
            core = f"{lead}, {core}"
        if rng.random() < p_phrase:
            core = f"{core} {tail}"
        if rng.random() < p_phrase:
            core = f"{core}, {factors['aside']}"
        core = core[0].upper() + core[1:]
        sentences.append(f'"{core}," {says} {speaker}.' if rng.random() < p_speech else f"{core}.")
    return Story(" ".join(sentences), level, registers.count("inventive") / n_sentences, n_sentences, factors)


def _frames_of(rng: random.Random, register: Register, family: Family) -> Any:
    """Endless shuffled frames of one register; none comes twice before all have come once."""
    frames = grammar()["frames"][register]
    chosen = [f for name in ("A", "B") if family in (name, "mixed") for f in frames[name]]
    return itertools.cycle(rng.sample(chosen, len(chosen)))


def _inflect(frame: str, filling: dict[str, str], factors: dict[str, str]) -> str:
    subject = {"I": "I", "name": filling["N"], "job": f"the {filling['J']}"}[factors["hero"]]
    text = _conjugate(frame, factors["tense"], first=subject == "I").format(S=subject, **filling)
    return re.sub(r"\bthe\b", factors["determiner"], text)


def _conjugate(frame: str, tense: str, first: bool) -> str:
    def form(match: re.Match[str]) -> str:
        forms = match[1].split("|")
        return forms[0] if tense == "past" else forms[-1] if first else forms[1]

    return re.sub(r"\[([^]]*)\]", form, frame)


@dataclass(frozen=True)
class Reading:
    """What the oracle found in a text."""

    registers: tuple[Register | None, ...]
    """One entry per complete sentence; None is malformed."""
    named_share: float
    """Share of the instruction's people, thing and town that the text names; nan without an instruction."""

    @property
    def well_formed_share(self) -> float:
        """Share of sentences the grammar could have written; nan where there is no complete sentence."""
        return sum(r is not None for r in self.registers) / len(self.registers) if self.registers else float("nan")

    @property
    def inventive_share(self) -> float:
        """Inventive share of the well-formed sentences; nan where there is none."""
        formed = [r for r in self.registers if r is not None]
        return formed.count("inventive") / len(formed) if formed else float("nan")


class Oracle:
    """Reads any text: each sentence is malformed, plain or inventive, by exact frames and known fillers.

    A last sentence without its full stop is dropped: a token limit cut it, the model did not end it.
    """

    def __init__(self) -> None:
        words = grammar()
        self._slot = {word: SLOTS[kind] for kind, names in words["fillers"].items() for word in names}
        phrases = {k: [p for kind in words[k].values() for ps in kind.values() for p in ps] for k in ("leads", "tails")}
        self._lead = re.compile(f"^(?:{'|'.join(phrases['leads'])}), ")
        self._tail = re.compile(f" (?:{'|'.join(phrases['tails'])})$")
        self._aside = re.compile(f", (?:{'|'.join(words['asides'])})$")
        self._determiners = frozenset(words["determiners"])
        self._speech = re.compile(
            f'"([^"]+)," (?:{"|".join([*words["speech"], *words["speech"].values()])}) ([A-Za-z]+)'
        )
        self._core: dict[str, Register] = {}
        for register, families in words["frames"].items():
            for frame in itertools.chain.from_iterable(families.values()):
                for tense, subject in itertools.product(("past", "present"), ("I", "{N}", "the {J}")):
                    text = _conjugate(frame, tense, first=subject == "I")
                    self._core[text.format(S=subject, O="{N}", X="{X}", L="{L}")] = register

    def read(self, text: str, instruction: str | None = None) -> Reading:
        """Judges every complete sentence of `text`, and which of the instruction's fillers it names."""
        sentences = [s.strip() for s in text.strip().split(".")[:-1]]
        named = float("nan")
        if instruction is not None:
            wanted = self._fillers(instruction)
            named = len(wanted & self._fillers(text)) / len(wanted) if wanted else named
        return Reading(tuple(self._register(s) for s in sentences), named)

    def _fillers(self, text: str) -> set[str]:
        # The hero's job stands for the hero, and a narrator is never named: only thing, town and names count.
        return {w for w in re.findall(r"[A-Za-z]+", text) if self._slot.get(w) in ("{N}", "{L}", "{X}")}

    def _register(self, sentence: str) -> Register | None:
        spoken = self._speech.fullmatch(sentence)
        if spoken and self._slot.get(spoken[2]) != "{N}":
            return None
        body = spoken[1] if spoken else sentence
        if not re.fullmatch(r"[A-Z][A-Za-z, ]*", body):
            return None
        # A sentence may open with a name or "I", which keep their form, or with a word that lost its small letter.
        for text in (body, body[0].lower() + body[1:]):
            words = self._tail.sub("", self._aside.sub("", self._lead.sub("", text, count=1))).split(" ")
            if len(self._determiners.intersection(words)) <= 1:
                core = " ".join("the" if w in self._determiners else self._slot.get(w, w) for w in words)
                if core in self._core:
                    return self._core[core]
        return None
