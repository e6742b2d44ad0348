"""The written data sets keep their measured quality: nothing but the premise tells the sides, or the levels, apart."""

import json
import re
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from probe.cli import main
from probe.data.audit import MARKERS, audit_pairs, words_of
from probe.data.rows import RatedText, TextPair, read_rows
from probe.metrics.texts import surface_features

FOLDER = Path(__file__).parents[1] / "data/creativity"
LEVELS = ("flat", "competent", "inventive")


@cache
def load(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (FOLDER / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]


def crossed() -> list[dict[str, Any]]:
    return load("crossed_validation") + load("crossed_test")


def test_there_are_500_pairs_of_100_topics_in_five_folds_that_no_topic_straddles() -> None:
    rows = load("pairs")
    assert len(rows) == len({row["id"] for row in rows}) == 500
    assert len({row["group"] for row in rows}) >= 100
    fields = ("id", "creative", "uncreative", "group", "genre", "fold")
    assert {tuple(name for name in row if name != "plain") for row in rows} == {fields}
    assert len({(row["group"], row["fold"]) for row in rows}) == len({row["group"] for row in rows})
    assert Counter(row["fold"] for row in rows) == dict.fromkeys(range(5), 100)
    assert len({row["genre"] for row in rows}) >= 15


def test_the_pairs_pass_every_check_of_the_audit_and_words_alone_do_not_tell_the_sides() -> None:
    found = {f.check: f for f in audit_pairs(read_rows(FOLDER / "pairs.jsonl", TextPair))}
    assert {f.severity for f in found.values()} == {"ok"}
    assert found["bag_of_words"].value <= 0.80
    assert abs(found["length_and_class"].value) < 0.05
    assert found["length_in_pair"].value < 0.15
    assert found["class_marking_words"].value <= 10


def test_a_pair_shares_its_phrasing_up_to_the_premise_and_the_phrasing_varies_between_pairs() -> None:
    shared = []
    for row in load("pairs"):
        a, b = words_of(row["creative"]), words_of(row["uncreative"])
        n = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
        assert n >= 5, row["id"]
        shared.append(n / len(a))
    assert np.mean(shared) > 0.5
    openings = Counter(tuple(words_of(row["creative"])[:3]) for row in load("pairs"))
    assert len(openings) >= 60
    assert openings.most_common(1)[0][1] < 0.15 * 500


def test_no_two_texts_are_near_duplicates_on_either_side() -> None:
    for side in ("creative", "uncreative"):
        sets = [set(words_of(row[side])) for row in load("pairs")]
        worst = max(len(a & b) / len(a | b) for i, a in enumerate(sets) for b in sets[:i])
        assert worst < 0.5


def test_the_graded_passages_are_80_topics_at_three_levels_of_matched_length() -> None:
    rows = load("graded")
    assert len(rows) == len({row["id"] for row in rows}) == 240
    assert not any("rating" in row for row in rows), "an intended level is not a rating"
    lengths: dict[str, dict[str, int]] = {}
    for row in rows:
        assert row["level"] == LEVELS[row["intended_level"]]
        lengths.setdefault(row["group"], {})[row["level"]] = len(words_of(row["text"]))
    assert len(lengths) == 80
    for by_level in lengths.values():
        assert set(by_level) == set(LEVELS)
        assert 60 <= min(by_level.values()) <= max(by_level.values()) <= 110
        assert max(by_level.values()) <= 1.1 * min(by_level.values())
    longest: Counter[str] = Counter()
    for by_level in lengths.values():
        tied = [level for level in LEVELS if by_level[level] == max(by_level.values())]
        longest.update(dict.fromkeys(tied, 1 / len(tied)))  # type: ignore[arg-type]  # a tie is shared
    assert min(longest[level] for level in LEVELS) >= 20


def surface() -> dict[str, list[float]]:
    """Type-token ratio, mean log frequency within the set and letters per word, for every passage."""
    words = [words_of(row["text"]) for row in load("graded")]
    count = Counter(word for text in words for word in text)
    return {
        "type_token_ratio": [len(set(text)) / len(text) for text in words],
        "log_frequency": [float(np.mean(np.log([count[word] for word in text]))) for text in words],
        "letters_per_word": [float(np.mean([len(word) for word in text])) for text in words],
        "words": [float(len(text)) for text in words],
    }


@pytest.mark.parametrize("measure", ["type_token_ratio", "log_frequency", "letters_per_word", "words"])
def test_no_surface_measure_ranks_the_levels(measure: str) -> None:
    level = [row["intended_level"] for row in load("graded")]
    assert abs(scipy.stats.spearmanr(surface()[measure], level).statistic) < 0.25


def test_an_intended_level_is_read_where_a_rating_is_wanted() -> None:
    rows = read_rows(FOLDER / "graded.jsonl", RatedText)
    assert sorted({row.rating for row in rows}) == [0, 1, 2]


def test_fit_runs_on_the_data_with_another_model_by_changing_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_lm_folder: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").symlink_to(FOLDER.parent)
    config = (FOLDER.parents[1] / "configs/creativity.yaml").read_text(encoding="utf-8")
    changed = config.replace("  model: data/storyteller/lm0", f"  model: {tiny_lm_folder}")
    assert sum(a != b for a, b in zip(config.splitlines(), changed.splitlines(), strict=True)) == 1
    Path("config.yaml").write_text(changed)
    quick = ("--steering.max_new_tokens=4", "--trainer.enable_progress_bar=false")
    assert main(("fit", "--config", "config.yaml", *quick)) == 0
    metrics = json.loads(Path("lightning_logs/probe/version_0/metrics.json").read_text())
    found = {(r["metric"], r["column"]): r for r in metrics["results"]["test"]}["spearman", "length"]
    assert (found["n"], found["n_groups"]) == (240, 80)


def test_the_data_card_gives_the_measured_figures() -> None:
    card = (FOLDER / "README.md").read_text(encoding="utf-8")
    found = {f.check: f for f in audit_pairs(read_rows(FOLDER / "pairs.jsonl", TextPair))}
    assert f"accuracy {found['bag_of_words'].value:.2f}" in card
    assert f"correlation of class and word count {found['length_and_class'].value:.2f}" in card
    level = np.array([row["intended_level"] for row in load("graded")])
    for name, values in surface().items():
        means = [np.mean(np.array(values)[level == k]) for k in range(3)]
        assert " | ".join(f"{mean:.2f}" for mean in means) in card, name
    assert not any(set(words_of(row["creative"])) & MARKERS for row in load("pairs"))


def test_two_pairs_of_each_topic_have_a_plain_side_on_which_nothing_happens_of_the_same_length() -> None:
    told = [row for row in load("pairs") if "plain" in row]
    assert Counter(row["group"] for row in told) == dict.fromkeys({row["group"] for row in load("pairs")}, 2)
    assert len({row["plain"] for row in told}) == 200
    longer = [len(row["plain"].split()) - len(row["creative"].split()) for row in told]
    assert max(map(abs, longer)) <= 3
    assert abs(np.mean(longer)) < 0.25
    assert all(words_of(row["plain"])[:3] == words_of(row["creative"])[:3] for row in told)


IDEAS, STYLES = ("ordinary", "inventive"), ("plain", "ornate")


def test_the_crossed_set_tells_100_topics_in_every_idea_and_style_in_60_to_90_words() -> None:
    rows = crossed()
    assert len(rows) == len({row["id"] for row in rows}) == len({row["text"] for row in rows}) == 400
    cells = Counter((row["group"], row["idea"], row["style"]) for row in rows)
    assert set(cells.values()) == {1}
    assert [len({row["group"] for row in load(f"crossed_{split}")}) for split in ("validation", "test")] == [60, 40]
    assert {(idea, style) for _, idea, style in cells} == {(i, s) for i in IDEAS for s in STYLES}
    assert {row["id"] for row in rows} == {"-".join(cell) for cell in cells}
    assert all(60 <= len(re.findall(r"[^\W\d_]+(?:['\u2019-][^\W\d_]+)*", row["text"])) <= 90 for row in rows)


def told_apart(what: str, sides: tuple[str, str], features: Any, seed: int) -> float:
    """Share of pairs, alike but for `what`, that a logistic regression fitted on other topics puts in the right order."""
    rows = crossed()
    texts, y = np.array([row["text"] for row in rows]), np.array([row[what] == sides[1] for row in rows])
    topic = {
        group: k for k, group in enumerate(np.random.default_rng(seed).permutation(sorted({r["group"] for r in rows})))
    }
    fold = np.array([topic[row["group"]] % 5 for row in rows])
    score = np.empty(len(rows))
    for k in range(5):
        model = make_pipeline(features, LogisticRegression(C=10)).fit(texts[fold != k], y[fold != k])
        score[fold == k] = model.decision_function(texts[fold == k])
    other = "style" if what == "idea" else "idea"
    of = {(row["group"], row[other], row[what]): s for row, s in zip(rows, score, strict=True)}
    ordered = [of[group, kept, sides[1]] - of[group, kept, sides[0]] for group, kept, side in of if side == sides[1]]
    return float(np.mean((np.sign(ordered) + 1) / 2))


FEATURES = {
    "seven surface features": lambda: make_pipeline(
        FunctionTransformer(lambda texts: np.array([surface_features(t) for t in texts])), StandardScaler()
    ),
    "length": lambda: make_pipeline(
        FunctionTransformer(lambda texts: np.array([surface_features(t)[:1] for t in texts])), StandardScaler()
    ),
    "words": lambda: TfidfVectorizer(sublinear_tf=True),
    "characters": lambda: TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 5), sublinear_tf=True),
}


@pytest.mark.parametrize("name", FEATURES)
def test_no_surface_of_the_crossed_set_tells_an_idea_on_topics_that_it_has_not_seen(name: str) -> None:
    found = [told_apart("idea", IDEAS, FEATURES[name](), seed) for seed in range(3)]
    assert np.mean(found) <= 0.60, found


@pytest.mark.parametrize("name", ["seven surface features", "words", "characters"])
def test_the_same_surface_tells_its_style_so_the_set_does_hold_the_rival(name: str) -> None:
    assert told_apart("style", STYLES, FEATURES[name](), 0) >= 0.90
