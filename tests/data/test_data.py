"""Data: no group is on two sides of a split, and no row is counted twice or left out on any number of processes."""

import json
import random
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import pytest
from small import write_sets

from probe.data.reading import Passage, Row, pair_rows, pairs, preference_rows, story_rows
from probe.data.rows import Preference, RatedText, TextPair
from probe.data.splits import SPLITS, ContrastData, RowSampler, Split, split_pairs
from probe.errors import ProbeError


def make_pairs(n_groups: int = 20, per_group: int = 3) -> list[TextPair]:
    return [
        TextPair(f"wild {g}.{i}", f"dull {g}.{i}", f"topic-{g}", f"wild story {g}.{i}", f"dull story {g}.{i}")
        for g in range(n_groups)
        for i in range(per_group)
    ]


def make_stories(*topics: int) -> list[RatedText]:
    return [RatedText(f"story of {g}, {i}", i / 2, f"topic-{g}") for g in topics for i in range(3)]


def groups_of(split: dict[Split, list[TextPair]]) -> dict[Split, set[str]]:
    return {name: {pair.group for pair in pairs} for name, pairs in split.items()}


def write(path: Path, rows: list[TextPair] | list[RatedText]) -> str:
    path.write_text("".join(json.dumps(asdict(row)) + "\n" for row in rows))
    return str(path)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("held_out", [((), ()), ((1, 2), ()), ((), (1, 2, 3)), ((1, 2), (3, 4, 5))])
def test_splits_share_no_group_and_lose_no_pair(seed: int, held_out: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    pairs = make_pairs()
    split = split_pairs(pairs, *(make_stories(*topics) for topics in held_out), (0.2, 0.3), seed)
    assert Counter(pair for part in split.values() for pair in part) == Counter(pairs)
    groups = groups_of(split)
    assert sum(map(len, groups.values())) == len(set.union(*groups.values())) == 20
    for name, topics, drawn in zip(SPLITS[1:], held_out, (4, 6), strict=True):
        assert groups[name] == {f"topic-{g}" for g in topics} if topics else len(groups[name]) == drawn


def test_a_random_split_depends_on_the_seed_and_not_on_the_order_of_the_file() -> None:
    pairs = make_pairs()
    splits = [groups_of(split_pairs(rows, [], [], (0.2, 0.2), seed)) for rows, seed in ((pairs, 0), (pairs[::-1], 0))]
    assert splits[0] == splits[1]
    assert splits[0] != groups_of(split_pairs(pairs, [], [], (0.2, 0.2), 1))


def test_groups_of_stories_never_fall_into_the_random_part_of_another_split() -> None:
    for seed in range(20):
        groups = groups_of(split_pairs(make_pairs(6), [], make_stories(0, 1), (0.3, 0.2), seed))
        assert groups["test"] == {"topic-0", "topic-1"}
        assert len(groups["validation"]) == 2
        assert not groups["validation"] & groups["test"]


def test_validation_and_test_stories_that_share_a_group_are_refused() -> None:
    with pytest.raises(ProbeError, match=r"share 1 groups.*topic-3"):
        split_pairs(make_pairs(), make_stories(2, 3), make_stories(3, 4), (0.2, 0.2), 0)


@pytest.mark.parametrize(
    ("n_groups", "validation", "test", "fractions"),
    [(3, [], [], (0.2, 0.2)), (5, [0, 1], [2, 3], (0.2, 0.2)), (20, [], [], (0.5, 0.5)), (20, [], [], (2.0, 0.1))],
)
def test_too_few_groups_left_for_training_are_refused(
    n_groups: int, validation: list[int], test: list[int], fractions: tuple[float, float]
) -> None:
    with pytest.raises(ProbeError, match=f"too few groups.* of {n_groups}"):
        split_pairs(make_pairs(n_groups), make_stories(*validation), make_stories(*test), fractions, 0)


def test_four_groups_are_enough() -> None:
    groups = groups_of(split_pairs(make_pairs(4), [], [], (0.2, 0.2), 0))
    assert {name: len(found) for name, found in groups.items()} == {"train": 2, "validation": 1, "test": 1}


def test_the_rows_of_a_pair_are_found_whatever_their_order_and_whatever_stands_between() -> None:
    made = make_pairs(2, 2)
    compared = preference_rows([Preference("A.", "B.", "b", "g"), Preference("C.", "D.", "tie", "g")])
    rows = [*pair_rows(made), *compared, *story_rows([RatedText("E.", 1.0, "g")])]
    random.Random(0).shuffle(rows)
    found = [(rows[i], rows[j]) for i, j in pairs(rows)]
    assert len(found) == len(made) + 2
    sides = {(one.prompt, other.prompt) for one, other in found if one.side == "creative"}
    assert sides == {(pair.creative, pair.uncreative) for pair in made}
    assert {frozenset((one.response, other.response)) for one, other in found if one.side is None} == {
        frozenset(["A.", "B."]),
        frozenset(["C.", "D."]),
    }
    assert pairs([]).shape == (0, 2)


def test_what_is_read_follows_the_span_and_a_story_is_always_read_over_its_own_text() -> None:
    side, story = Row("asked", "told", "g", 1.0, "creative", 0), Row("asked", "told", "g", 0.5)
    assert side.passage("prompt") == Passage("asked")
    assert side.passage("response") == story.passage("prompt") == story.passage("response") == Passage("asked", "told")


def test_a_pair_without_responses_cannot_be_read_over_them_and_the_fix_is_named() -> None:
    row = Row("asked", None, "g", 1.0, "creative", 0)
    assert row.passage("prompt") == Passage("asked")
    with pytest.raises(ProbeError, match=r"set model\.init_args\.span to `prompt`"):
        row.passage("response")


@pytest.mark.parametrize("world", [1, 2, 3])
@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("n_rows", [1, 2, 10, 12])
def test_the_shares_of_all_processes_hold_each_row_once(world: int, shuffle: bool, n_rows: int) -> None:
    samplers = [RowSampler(n_rows, 0, shuffle, rank, world) for rank in range(world)]
    shares = [list(sampler) for sampler in samplers]
    assert {len(share) for share in shares} == {len(samplers[0])} == {-(-n_rows // world)}
    drawn = [row for share in shares for row in share if row != -1]
    assert sorted(drawn) == list(range(n_rows))


def order_of(sampler: RowSampler, epoch: int) -> list[int]:
    sampler.set_epoch(epoch)
    return list(sampler)


def test_the_order_is_a_function_of_seed_and_epoch_alone() -> None:
    def orders(seed: int, epoch: int) -> tuple[list[int], ...]:
        """The global order, put together again from one, two and three processes."""
        found = []
        for world in (1, 2, 3):
            shares = [order_of(RowSampler(50, seed, True, rank, world), epoch) for rank in range(world)]
            found.append([row for step in zip(*shares, strict=True) for row in step if row != -1])
        return tuple(found)

    first = orders(0, 0)
    assert first[0] == first[1] == first[2]
    assert first == orders(0, 0)
    assert len({tuple(orders(seed, epoch)[0]) for seed in range(3) for epoch in range(3)}) == 9


def test_an_unshuffled_share_is_in_file_order_in_every_epoch() -> None:
    sampler = RowSampler(7, 0, False, 1, 2)
    assert order_of(sampler, 0) == order_of(sampler, 5) == [1, 3, 5, -1]


def test_the_module_yields_row_numbers_and_labels_and_holds_the_stories_pairs_out(tmp_path: Path) -> None:
    files = (
        write(tmp_path / "pairs.jsonl", make_pairs()),
        write(tmp_path / "a.jsonl", make_stories(0, 1)),
        write(tmp_path / "b.jsonl", make_stories(2, 3, 4)),
    )
    data = ContrastData(*files, batch_size=7)
    data.setup("fit")
    loaders = dict(zip(SPLITS, (data.train_dataloader(), data.val_dataloader(), data.test_dataloader()), strict=True))
    for split, loader in loaders.items():
        rows = data.rows[split]
        seen = {int(r): int(y) for batch in loader for r, y in zip(batch["row"], batch["label"], strict=True)}
        assert seen == {i: int(row.truth) if row.side else -1 for i, row in enumerate(rows)}
    counts = {
        split: (sum(r.side is not None for r in rows), sum(r.side is None for r in rows))
        for split, rows in data.rows.items()
    }
    assert counts == {"train": (2 * 3 * 15, 0), "validation": (2 * 3 * 2, 6), "test": (2 * 3 * 3, 9)}
    assert max(map(len, (batch["row"] for batch in loaders["train"]))) == 7


def test_a_crossed_set_is_read_on_test_and_may_not_touch_what_was_learned_from(tmp_path: Path) -> None:
    files = write_sets(tmp_path)
    learned = json.loads(Path(files["pairs"]).read_text().splitlines()[-1])["group"]
    cells = [{"idea": idea, "style": style} for idea in ("inventive", "ordinary") for style in ("plain", "ornate")]
    for group, refused in (("a topic of its own", False), (learned, True)):
        path = tmp_path / "crossed.jsonl"
        path.write_text("".join(json.dumps({"text": "A.", "group": group} | cell) + "\n" for cell in cells))
        data = ContrastData(**files, test_crossed=str(path))
        if refused:
            with pytest.raises(ProbeError, match="share 1 groups"):
                data.setup("fit")
        else:
            data.setup("fit")
            assert [row.cell for row in data.rows["test"][-4:]] == [(1, 0), (1, 1), (0, 0), (0, 1)]


def test_preferences_are_read_on_test_and_may_not_touch_what_was_learned_from(tmp_path: Path) -> None:
    files = write_sets(tmp_path)
    learned = json.loads(Path(files["pairs"]).read_text().splitlines()[-1])["group"]
    for group, refused in (("a topic of its own", False), (learned, True)):
        path = tmp_path / "preferences.jsonl"
        path.write_text(json.dumps({"text_a": "A.", "text_b": "B.", "preferred": "b", "group": group}) + "\n")
        data = ContrastData(**files, test_preferences=str(path))
        if refused:
            with pytest.raises(ProbeError, match="share 1 groups"):
                data.setup("fit")
        else:
            data.setup("fit")
            first, second = data.rows["test"][-2:]
            assert (first.response, first.truth, second.response, second.truth) == ("A.", 0.0, "B.", 1.0)
            assert [first.pair, second.pair, first.side] == [0, 0, None]


def test_batch_size_nought_is_one_batch_of_everything(tmp_path: Path) -> None:
    data = ContrastData(write(tmp_path / "pairs.jsonl", make_pairs()))
    data.setup("fit")
    (batch,) = data.train_dataloader()
    assert len(batch["row"]) == len(data.rows["train"])


def test_a_padding_row_has_no_label_even_where_its_row_has_one(tmp_path: Path) -> None:
    data = ContrastData(write(tmp_path / "pairs.jsonl", make_pairs()))
    data.setup("fit")
    dataset = data.train_dataloader().dataset
    assert dataset[0] == {"row": 0, "label": 1}
    assert dataset[-1] == {"row": 0, "label": -1}


def test_setting_up_twice_does_not_split_twice(tmp_path: Path) -> None:
    data = ContrastData(write(tmp_path / "pairs.jsonl", make_pairs()))
    data.setup("fit")
    rows = data.rows["train"]
    data.setup("test")
    assert data.rows["train"] is rows


def test_of_rated_texts_the_extremes_are_learned_from_and_whole_held_out_groups_are_judged_on(tmp_path: Path) -> None:
    rated = [RatedText(f"story {level} of {g}", level, f"topic-{g}") for g in range(10) for level in (0, 1, 2)]
    data = ContrastData(write(tmp_path / "rated.jsonl", rated))
    data.setup("fit")
    assert {row.truth for row in data.rows["train"]} == {0.0, 1.0}
    seen = {row.group for row in data.rows["train"]}
    for split in SPLITS[1:]:
        stories = [row for row in data.rows[split] if row.side is None]
        groups = {row.group for row in data.rows[split]}
        assert not groups & seen
        assert sorted((row.group, row.truth) for row in stories) == sorted((g, lv) for g in groups for lv in (0, 1, 2))


def test_the_span_reply_reads_a_side_of_a_pair_where_the_reply_begins_and_a_story_over_its_own_text() -> None:
    creative, _ = pair_rows(make_pairs(1, 1))
    assert creative.passage("reply") == Passage(creative.prompt, at_reply=True)
    assert Row("Write.", "A story.", "g", 1.0).passage("reply") == Passage("Write.", "A story.")
