import json
import warnings
from pathlib import Path
from typing import Any

import pytest

from probe.data.rated import RatedData
from probe.data.reading import labels, pair_rows, story_rows
from probe.data.rows import RatedText, TextPair
from probe.data.splits import SPLITS
from probe.errors import ProbeError


def write(path: Path, records: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(path)


def rated(n_groups: int = 10, **more: Any) -> list[dict[str, Any]]:
    return [
        {"text": f"Text {i} on {g}.", "rating": i, "group": f"topic {g}", **more}
        for g in range(n_groups)
        for i in range(3)
    ]


def data_of(folder: Path, records: list[dict[str, Any]], **settings: Any) -> RatedData:
    data = RatedData(write(folder / "texts.jsonl", records), **settings)
    data.setup("fit")
    return data


def test_whole_groups_are_split_at_random_and_no_text_is_lost(tmp_path: Path) -> None:
    data = data_of(tmp_path, rated())
    groups = [{row.group for row in data.rows[split]} for split in SPLITS]
    assert [len(of_split) for of_split in groups] == [6, 2, 2]
    assert not groups[0] & groups[1] and not groups[2] & (groups[0] | groups[1])
    assert sum(len(rows) for rows in data.rows.values()) == 30


def test_another_seed_splits_otherwise_and_the_same_seed_the_same(tmp_path: Path) -> None:
    def held(seed: int) -> set[str]:
        return {row.group for row in data_of(tmp_path, rated(), seed=seed).rows["test"]}

    assert held(0) == held(0)
    assert len({frozenset(held(seed)) for seed in range(5)}) > 1


def test_a_file_that_says_its_own_splits_is_split_so_and_shared_groups_are_said(tmp_path: Path) -> None:
    names = ["train", "val", "test"]
    records = [{**row, "split": names[i // 3 % 3]} for i, row in enumerate(rated(9))]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = data_of(tmp_path, records)
    assert [row.group for row in data.rows["validation"]] == [r["group"] for r in records if r["split"] == "val"]
    mixed = [{**row, "split": names[i % 3], "rating": i} for i, row in enumerate(rated(9))]
    with pytest.warns(UserWarning, match="9 of 9 test groups are also learned from"):
        data_of(tmp_path, mixed)


@pytest.mark.parametrize(
    ("records", "says"),
    [
        ([*rated(9, split="train"), *rated(2)], "a `split` in every row or in none, found 6 of 33"),
        (rated(3), "too few groups: expected at least 2 left for training"),
        (rated(9, split="train"), "found 0 texts of one rating for validation"),
        ([{**row, "rating": 1.0} for row in rated()], "texts with different ratings in every split"),
        ([{**row, "split": "dev"} for row in rated()], "`split` to be train, val, validation or test, found 'dev'"),
    ],
)
def test_what_cannot_be_split_is_refused_in_a_sentence(tmp_path: Path, records: Any, says: str) -> None:
    with pytest.raises(ProbeError, match=says):
        data_of(tmp_path, records)


def test_preferences_on_a_group_that_was_learned_from_are_refused(tmp_path: Path) -> None:
    compared = [{"text_a": "One.", "text_b": "Two.", "preferred": "a", "group": f"topic {g}"} for g in range(10)]
    with pytest.raises(ProbeError, match="share 8 groups with training or validation"):
        data_of(tmp_path, rated(), test_preferences=write(tmp_path / "compared.jsonl", compared))
    compared = [{**row, "group": f"new {i}"} for i, row in enumerate(compared)]
    data = data_of(tmp_path, rated(), test_preferences=write(tmp_path / "compared.jsonl", compared))
    assert sum(row.pair is not None for row in data.rows["test"]) == 20


def test_the_classes_of_ratings_are_their_extreme_quarters_and_of_pairs_their_sides() -> None:
    texts = [RatedText("A text.", float(rating), "g") for rating in (5, 1, 3, 2, 4, 3, 1, 5)]
    assert labels(story_rows(texts)) == [1, 0, -1, -1, -1, -1, 0, 1]
    sides = pair_rows([TextPair("be creative", "be dull", "g", "one", "two")])
    assert labels([*sides, *story_rows(texts)]) == [1, 0, *[-1] * 8]
    assert labels([]) == []


def test_where_most_ratings_are_equal_the_extremes_are_the_classes() -> None:
    texts = [RatedText("A text.", float(rating), "g") for rating in (3, 3, 3, 3, 3, 3, 3, 5, 2, 1)]
    assert labels(story_rows(texts)) == [*[-1] * 7, 1, -1, 0]
