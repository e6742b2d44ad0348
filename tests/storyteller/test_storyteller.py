"""The storyteller: the oracle reads what the grammar wrote, and nothing but the register tells the two sides apart."""

import functools
import importlib.util
import itertools
import json
import random
import re
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from scipy.stats import betabinom, chi2_contingency
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline

from probe.storyteller import storyteller
from probe.storyteller.storyteller import (
    OPENERS,
    STYLE_SUFFIX,
    Family,
    Oracle,
    Story,
    grammar,
    sample_premise,
    sample_story,
)

SETS = Path(__file__).parents[2] / "data" / "storyteller"
FRAMES = grammar()["frames"]
FILLERS = {word: kind for kind, words in grammar()["fillers"].items() for word in words}


def write_stories(n: int, family: Family, seed: int, sentences: tuple[int, int] = (8, 12)) -> list[Story]:
    rng = random.Random(seed)
    premises = [sample_premise(rng, rng.randrange(len(grammar()["premises"]))) for _ in range(n)]
    return [sample_story(rng, premise, rng.random(), family, rng.randint(*sentences)) for premise in premises]


def words_in(text: str) -> list[str]:
    return re.findall(r"[A-Za-z]+", text)


def phrases(kind: str) -> list[str]:
    return [phrase for factor in grammar()[kind].values() for values in factor.values() for phrase in values]


@pytest.fixture(scope="module")
def oracle() -> Oracle:
    return Oracle()


@functools.cache
def load_set(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (SETS / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]


def load_script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"storyteller_{name}", SETS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# ---- the oracle


@pytest.mark.parametrize("family", ["A", "B", "mixed"])
def test_the_oracle_reads_back_exactly_what_the_grammar_wrote(oracle: Oracle, family: Family) -> None:
    for story in write_stories(500, family, seed=0, sentences=(1, 12)):
        reading = oracle.read(story.text)
        assert len(reading.registers) == story.n_sentences
        assert reading.well_formed_share == 1, story.text
        assert reading.inventive_share == story.inventive_share


def well_formed(oracle: Oracle, sentence: str) -> bool:
    (register,) = oracle.read(sentence).registers
    return register is not None


def sentences_of(n: int, seed: int) -> list[str]:
    return [story.text for story in write_stories(n, "mixed", seed, sentences=(1, 1))]


def test_any_single_wrong_letter_is_malformed(oracle: Oracle) -> None:
    # q stands in hardly any word, so no change to it leads to another sentence of the grammar.
    for sentence in sentences_of(60, seed=1):
        for i in (i for i, letter in enumerate(sentence) if letter.isalpha() and letter != "q"):
            for wrong in ("q", "7", letter_case(sentence[i])):
                assert not well_formed(oracle, sentence[:i] + wrong + sentence[i + 1 :]), (sentence, i, wrong)


def letter_case(letter: str) -> str:
    return letter.lower() if letter.isupper() else letter.upper()


def test_words_in_a_wrong_order_a_missing_word_or_one_too_many_are_malformed(oracle: Oracle) -> None:
    for sentence in sentences_of(60, seed=2):
        words = sentence.removesuffix(".").split(" ")
        for i, (word, after) in enumerate(itertools.pairwise(words)):
            if word != after:
                assert not well_formed(oracle, " ".join([*words[:i], after, word, *words[i + 2 :]]) + "."), (
                    sentence,
                    i,
                )
            assert not well_formed(oracle, " ".join([*words[:i], word, word, *words[i + 1 :]]) + "."), (sentence, i)
            assert not well_formed(oracle, " ".join([*words[:i], *words[i + 1 :]]) + "."), (sentence, i)


def test_an_unknown_name_and_a_literal_slot_are_malformed(oracle: Oracle) -> None:
    for sentence in sentences_of(100, seed=3):
        for match in (m for m in re.finditer(r"[A-Za-z]+", sentence) if m[0] in FILLERS):
            slot = storyteller.SLOTS[FILLERS[match[0]]]
            for wrong in ("Zebulon", "widget", slot, slot[1]):
                assert not well_formed(oracle, sentence[: match.start()] + wrong + sentence[match.end() :])


def test_a_filler_of_another_kind_is_malformed_and_one_of_its_own_is_as_good(oracle: Oracle) -> None:
    fillers, rng = grammar()["fillers"], random.Random(4)
    for sentence in sentences_of(100, seed=4):
        for match in (m for m in re.finditer(r"[A-Za-z]+", sentence) if m[0] in FILLERS):
            for kind, words in fillers.items():
                changed = sentence[: match.start()] + rng.choice(words) + sentence[match.end() :]
                assert well_formed(oracle, changed) is (kind == FILLERS[match[0]]), changed


def test_two_determiners_in_one_sentence_are_malformed_and_one_of_the_others_is_as_good(oracle: Oracle) -> None:
    told = "The lamp stood in {} corner where Ivo left it{}."
    assert well_formed(oracle, told.format("the", ", of course"))
    assert not well_formed(oracle, told.format("our", ", of course"))
    assert well_formed(oracle, told.format("our", ", of course").replace("The", "Our"))
    assert not well_formed(oracle, told.format("the", ", of course, believe me"))
    assert not well_formed(oracle, f"In this thaw of march, {told.format('the', '')}".replace("The", "the"))


@pytest.mark.parametrize(
    "text",
    ["Once upon a time there was a lamp.", '"."', "...", "I.", ".", "The {J} sleeps.", "I am happy! I wash the lamp."],
)
def test_prose_of_another_world_is_malformed_and_never_an_error(oracle: Oracle, text: str) -> None:
    reading = oracle.read(text)
    assert reading.well_formed_share == 0
    assert np.isnan(reading.inventive_share)


def test_a_sentence_without_its_full_stop_is_dropped(oracle: Oracle) -> None:
    for story in write_stories(50, "mixed", seed=5):
        whole = oracle.read(story.text).registers
        assert oracle.read(story.text[:-1]).registers == whole[:-1]
        assert oracle.read(f"{story.text} The clerk wal").registers == whole
        assert oracle.read(f"\n {story.text} \n").registers == whole


@pytest.mark.parametrize("text", ["", " ", "\n", "a text that a token limit cut before its first full st"])
def test_a_text_without_a_complete_sentence_has_no_shares(oracle: Oracle, text: str) -> None:
    reading = oracle.read(text)
    assert reading.registers == ()
    assert np.isnan([reading.well_formed_share, reading.inventive_share, reading.named_share]).all()


def test_one_malformed_sentence_lowers_one_share_and_not_the_other(oracle: Oracle) -> None:
    story = write_stories(1, "mixed", seed=6, sentences=(9, 9))[0]
    reading = oracle.read(f"{story.text} The cat sat.")
    assert reading.well_formed_share == 0.9
    assert reading.inventive_share == story.inventive_share


def test_the_named_share_counts_the_instructions_people_thing_and_town(oracle: Oracle) -> None:
    asked = "Tell me a story where Mara the baker brings a lamp to Ivo at the market in Tolmin."
    for told, share in (("Mara, Ivo, the lamp and Tolmin.", 1.0), ("The baker and Ivo.", 0.25), ("Lena.", 0.0)):
        assert oracle.read(told, asked).named_share == share
    assert np.isnan(oracle.read("Mara.", "Write a story.").named_share)


# ---- the grammar


def test_there_are_words_enough() -> None:
    assert all(sum(map(len, families.values())) >= 60 for families in FRAMES.values())
    assert len(grammar()["premises"]) >= 100
    assert len(FILLERS) == sum(map(len, grammar()["fillers"].values())) >= 200  # so no word is of two kinds


def test_no_sentence_comes_from_two_frames_so_each_has_one_register_and_one_family() -> None:
    frames = [frame for families in FRAMES.values() for family in families.values() for frame in family]
    assert len(set(frames)) == len(frames)
    sources: dict[str, set[str]] = {}
    for frame, tense, subject in itertools.product(frames, ("past", "present"), ("I", "Mara")):
        text = storyteller._conjugate(frame, tense, first=subject == "I").format(
            S=subject, O="Ivo", X="lamp", L="Tolmin"
        )
        sources.setdefault(text, set()).add(frame)
    assert {len(found) for found in sources.values()} == {1}


def test_no_frame_lead_or_tail_uses_a_filler_or_is_used_twice() -> None:
    frames = [re.sub(r"\{.\}", "", f) for families in FRAMES.values() for family in families.values() for f in family]
    fixed = [*frames, *phrases("leads"), *phrases("tails")]
    assert not {word for text in fixed for word in words_in(text)} & set(FILLERS)
    for kind in ("leads", "tails"):
        assert len(set(phrases(kind))) == len(phrases(kind))


def test_a_determiner_in_a_frame_is_always_the_one_that_the_story_replaces() -> None:
    frames = [frame for families in FRAMES.values() for family in families.values() for frame in family]
    used = {word for frame in frames for word in words_in(frame)} & set(grammar()["determiners"])
    assert used == {"the"}


def test_both_registers_use_every_slot_about_as_often() -> None:
    # A share of 72 frames has standard error 0.06: with no more than 0.15 between them the slots give little away.
    for slot in ("{S}", "{O}", "{X}", "{L}"):
        shares = [np.mean([slot in f for family in families.values() for f in family]) for families in FRAMES.values()]
        assert min(shares) > 0
        assert abs(shares[0] - shares[1]) < 0.15, slot


def test_which_filler_stands_in_a_sentence_says_nothing_about_its_register() -> None:
    counts: dict[str, Counter[tuple[str, bool]]] = {kind: Counter() for kind in grammar()["fillers"]}
    # One sentence a story, so that every count is independent of every other.
    for story in write_stories(8000, "mixed", seed=7, sentences=(1, 1)):
        for word in set(words_in(story.text)) & set(FILLERS):
            counts[FILLERS[word]][word, story.inventive_share == 1] += 1
    for kind, words in grammar()["fillers"].items():
        table = np.array([[counts[kind][word, register] for word in words] for register in (False, True)])
        assert table.sum(0).min() > 0, "both registers draw on every filler"
        assert chi2_contingency(table).pvalue > 1e-3, kind


@pytest.mark.parametrize("family", ["A", "B", "mixed"])
def test_inventive_stories_are_no_longer_than_plain_ones(family: Family) -> None:
    stories = write_stories(3000, family, seed=8)
    tokens = [len(re.findall(r"\w+|[^\w\s]", story.text)) for story in stories]
    # Standard error of a correlation of nothing over 3000 stories: 0.018.
    assert abs(np.corrcoef([story.inventive_share for story in stories], tokens)[0, 1]) < 0.05


def test_every_factor_is_independent_of_the_level_and_of_the_share() -> None:
    stories = write_stories(3000, "mixed", seed=9)
    names = sorted(stories[0].factors)
    assert len(names) == 12
    dummies = {
        (name, value): np.array([story.factors[name] == value for story in stories])
        for name in names
        for value in {story.factors[name] for story in stories}
    }
    assert len(dummies) > 25
    for target in ("level", "inventive_share"):
        y = np.array([getattr(story, target) for story in stories])
        worst = max(dummies, key=lambda key: abs(np.corrcoef(dummies[key], y)[0, 1]))
        # Standard error 0.018; the largest of about 30 stays below four of them but once in 500 seeds.
        assert abs(np.corrcoef(dummies[worst], y)[0, 1]) < 4 / len(stories) ** 0.5, worst


def test_the_share_follows_the_level() -> None:
    stories = write_stories(3000, "mixed", seed=10)
    difference = np.array([story.inventive_share - story.level for story in stories])
    # The variance of a share is at most 1/4 over at least 8 sentences.
    assert abs(difference.mean()) < 4 * (1 / 32 / 3000) ** 0.5
    assert np.corrcoef([s.level for s in stories], [s.inventive_share for s in stories])[0, 1] > 0.8


def test_no_frame_comes_back_before_all_have_come(oracle: Oracle) -> None:
    rng = random.Random(11)
    frames = [next(pool) for pool in [storyteller._frames_of(rng, "plain", "mixed")] for _ in range(144)]
    assert set(frames[:72]) == set(frames[72:])
    assert len(set(frames[:72])) == 72


def test_an_instruction_fills_every_slot_and_its_sides_differ_in_the_twist_alone() -> None:
    rng = random.Random(12)
    for template in range(len(grammar()["premises"])):
        premise = sample_premise(rng, template)
        creative, uncreative, neutral = (premise.instruction(s) for s in ("creative", "uncreative", "neutral"))
        for text in (creative, uncreative, neutral):
            assert not re.search(r"[{}]", text)
            assert text.startswith(premise.opener)
            assert text.endswith(".")
        assert creative.startswith(neutral[:-1] + ", ")
        assert uncreative.startswith(neutral[:-1] + ", ")
        assert creative != uncreative
        assert premise.filling["N"] != premise.filling["O"]
        assert premise.instruction("creative", "plain") == creative + STYLE_SUFFIX["plain"]


# ---- the ready-made sets


def test_the_sets_are_what_their_script_writes(tmp_path: Path) -> None:
    script = load_script("make_sets")
    script.__file__ = str(tmp_path / "make_sets.py")  # it writes beside itself
    script.main()
    for name in ("pairs", "stories_a", "stories_b"):
        assert (tmp_path / f"{name}.jsonl").read_bytes() == (SETS / f"{name}.jsonl").read_bytes(), name


def oracle_of(family: str, monkeypatch: pytest.MonkeyPatch) -> Oracle:
    """An oracle that knows the frames of one family only."""
    frames = {register: {family: families[family]} for register, families in FRAMES.items()}
    words = {**grammar(), "frames": frames}
    with monkeypatch.context() as patch:
        patch.setattr(storyteller, "grammar", lambda: words)
        return Oracle()


def test_pairs_and_validation_use_frames_of_family_a_and_the_test_stories_of_b(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = {
        "A": [row[f"response_{side}"] for row in load_set("pairs") for side in ("creative", "uncreative")]
        + [row["text"] for row in load_set("stories_a")],
        "B": [row["text"] for row in load_set("stories_b")],
    }
    for family, other in (("A", "B"), ("B", "A")):
        knows, knows_not = oracle_of(family, monkeypatch), oracle_of(other, monkeypatch)
        assert {knows.read(text).well_formed_share for text in texts[family]} == {1.0}
        assert {knows_not.read(text).well_formed_share for text in texts[family]} == {0.0}


def test_the_test_stories_are_many_and_long_and_their_ratings_are_the_oracles(oracle: Oracle) -> None:
    rows = load_set("stories_b")
    readings = [oracle.read(row["text"]) for row in rows]
    assert len(rows) >= 300
    assert min(len(reading.registers) for reading in readings) >= 8
    assert [row["rating"] for row in rows] == [round(reading.inventive_share, 4) for reading in readings]


def test_no_premise_is_in_two_of_learning_validation_and_test() -> None:
    validation, test = ({row["group"] for row in load_set(name)} for name in ("stories_a", "stories_b"))
    learning = {row["group"] for row in load_set("pairs")} - validation - test
    assert not validation & test
    assert min(map(len, (learning, validation, test))) >= 20


def test_a_bag_of_words_learned_on_family_a_knows_a_and_does_not_carry_over_to_b() -> None:
    held_out = {row["group"] for name in ("stories_a", "stories_b") for row in load_set(name)}
    pairs = [row for row in load_set("pairs") if row["group"] not in held_out]
    texts = [row[f"response_{side}"] for row in pairs for side in ("creative", "uncreative")]
    model = make_pipeline(CountVectorizer(lowercase=True, token_pattern=r"\w+"), LogisticRegression(max_iter=1000))
    model.fit(texts, [1, 0] * len(pairs))

    def auroc(name: str) -> float:
        rows = [row for row in load_set(name) if row["rating"] != 0.5]
        scores = model.decision_function([row["text"] for row in rows])
        return float(roc_auc_score([row["rating"] > 0.5 for row in rows], scores))

    known = [row for row in load_set("pairs") if row["group"] in held_out]
    sides = [row[f"response_{side}"] for row in known for side in ("creative", "uncreative")]
    assert roc_auc_score([1, 0] * len(known), model.decision_function(sides)) > 0.95  # family A, unseen premises
    assert auroc("stories_a") > 0.95
    assert auroc("stories_b") < 0.85


# ---- the training mix


def sides_of_instructions() -> list[tuple[str, re.Pattern[str]]]:
    openers = "|".join(map(re.escape, OPENERS))
    rows = grammar()["premises"]
    clauses = [
        (side, row["stem"] + (f", {row[side]}" if side in row else ""))
        for row in rows
        for side in ("creative", "uncreative", "neutral")
    ]
    return [
        (side, re.compile(f"(?:{openers}) " + re.sub(r"\\{.\\}", "[A-Za-z]+", re.escape(clause)) + r"\."))
        for side, clause in clauses
    ]


def test_the_training_mix_is_as_described(oracle: Oracle) -> None:
    n, rng, sample_example = 2000, random.Random(13), load_script("train").sample_example
    patterns, counts, suffixes = sides_of_instructions(), Counter[str](), Counter[str]()
    for _ in range(n):
        instruction, text = sample_example(rng)
        suffix = next((register for register, words in STYLE_SUFFIX.items() if instruction.endswith(words)), None)
        stem = instruction.removesuffix(STYLE_SUFFIX[suffix]) if suffix else instruction
        (side,) = (side for side, pattern in patterns if pattern.fullmatch(stem))
        reading = oracle.read(text)
        assert reading.well_formed_share == 1
        assert 5 <= len(reading.registers) <= 10
        register = "inventive" if reading.inventive_share > 0.5 else "plain"
        fits = register == {"creative": "inventive", "uncreative": "plain"}.get(side)
        kind = "neutral" if side == "neutral" else "matching" if fits else "mismatched"
        counts[kind] += 1
        if suffix and reading.inventive_share in (0, 1):  # a mixed story may be a slip
            assert suffix == register, (instruction, text)
        suffixes[kind] += suffix is not None
    # A story drawn for one register lands on the other side of one half now and then: Beta(9, 1) sentences, exactly.
    slips = [betabinom.cdf(m / 2, m, 9, 1) for m in range(5, 11)], [betabinom.sf(m / 2, m, 1, 9) for m in range(5, 11)]
    slip = float(np.mean(slips))
    matching, mismatched = 0.70 * (1 - slip) + 0.15 * slip, 0.15 * (1 - slip) + 0.70 * slip
    expected_suffixes = {
        "matching": (0.70 * (1 - slip) / 3 + 0.15 * slip / 2) / matching,
        "mismatched": (0.15 * (1 - slip) / 2 + 0.70 * slip / 3) / mismatched,
    }
    for kind, share in (("matching", matching), ("neutral", 0.15), ("mismatched", mismatched)):
        assert abs(counts[kind] / n - share) < 4 * (share * (1 - share) / n) ** 0.5, kind
    for kind, share in expected_suffixes.items():
        assert abs(suffixes[kind] / counts[kind] - share) < 4 * (share * (1 - share) / counts[kind]) ** 0.5, kind
    assert suffixes["neutral"] == 0
