"""Cross-fitting: every group is judged once, by fits that saw nothing of it, and layers are chosen without it."""

import numpy as np
import pytest

from probe.data.reading import Passage
from probe.data.rows import Preference, RatedText, TextPair
from probe.errors import ProbeError
from probe.verbs.compare.crossfit import ContrastSet, CrossFit, assign_folds


def pairs(groups: range, responses: bool = True) -> list[TextPair]:
    answers = ("a fox sang", "a fox sat") if responses else (None, None)
    return [TextPair(f"c{g} {i}", f"u{g} {i}", f"g{g}", *answers) for g in groups for i in range(2)]


def rated(groups: range) -> list[RatedText]:
    return [RatedText(f"story {g} {i}", float(i), f"g{g}") for g in groups for i in range(3)]


@pytest.fixture
def crossfit() -> CrossFit:
    contrasts = {"main": ContrastSet(pairs(range(30)), "response"), "prompts": ContrastSet(pairs(range(30)), "prompt")}
    stories = {"chosen": rated(range(10)), "judged": rated(range(10, 25))}
    preferences = {"liked": [Preference("a", "b", "a", f"g{g}") for g in range(25, 40)]}
    return CrossFit(contrasts, stories, preferences, choose_on="chosen", judged_on="judged")


def test_every_row_of_every_test_set_is_judged_in_exactly_one_fold(crossfit: CrossFit) -> None:
    for name, test in crossfit.tests.items():
        judged = np.concatenate([crossfit.rows_in(name, part.index) for part in crossfit.folds])
        assert sorted(judged) == list(range(len(test.rows)))


def test_no_fit_sees_a_group_that_it_is_judged_on_nor_learns_from_one_that_it_chooses_on(crossfit: CrossFit) -> None:
    for contrast in crossfit.contrasts:
        for part in crossfit.folds:
            data = crossfit.training(contrast, part, 0)
            seen = {split: {row.group for row in rows} for split, rows in data.rows.items()}
            tested = {g for g, fold in crossfit.fold_of.items() if fold == part.index}
            assert not tested & (seen["train"] | seen["validation"])
            assert not seen["train"] & seen["validation"]
            assert {p.group for p in data.examples} == seen["train"]
            assert len(seen["train"]) >= 10


def test_the_layer_is_chosen_on_the_rated_stories_of_training_groups(crossfit: CrossFit) -> None:
    data = crossfit.training("main", crossfit.folds[0], 0)
    stories = [row for row in data.rows["validation"] if row.side is None]
    chosen_on = {f"g{g}" for g in range(10) if crossfit.fold_of[f"g{g}"] != 0}
    assert {row.group for row in stories} == chosen_on == {row.group for row in data.rows["validation"]}


def test_without_rated_stories_a_fifth_of_the_training_groups_is_held_out_for_the_choice() -> None:
    crossfit = CrossFit({"main": ContrastSet(pairs(range(50)), "prompt")}, {}, {})
    data = crossfit.training("main", crossfit.folds[1], 0)
    assert len({row.group for row in data.rows["validation"]}) == 8  # of 40
    assert len({row.group for row in data.rows["train"]}) == 32


def test_the_two_halves_share_no_group_and_leave_none_out(crossfit: CrossFit) -> None:
    seen = []
    for part in crossfit.halves:
        rows = crossfit.training("main", part, 0).rows
        seen.append({row.group for split in rows.values() for row in split})
    assert not seen[0] & seen[1]
    assert {f"g{g}" for g in range(30)} <= seen[0] | seen[1]


def test_every_fold_has_its_share_of_every_kind_of_group() -> None:
    groups_of = {"a": {f"a{i}" for i in range(25)}, "b": {f"b{i}" for i in range(10)}}
    fold = assign_folds(groups_of, 5, seed=3)
    for groups in groups_of.values():
        assert np.ptp(np.bincount([fold[g] for g in groups], minlength=5)) <= 1
    assert fold == assign_folds({name: set(sorted(groups)[::-1]) for name, groups in groups_of.items()}, 5, seed=3)
    assert fold != assign_folds(groups_of, 5, seed=4)


def test_the_crossed_texts_are_each_response_after_each_instruction() -> None:
    pair = TextPair("be bold", "be dull", "g", "bold text", "dull text")
    others = [TextPair("c", "u", f"o{i}", "x", "y") for i in range(9)]
    crossfit = CrossFit({"main": ContrastSet([pair, *others], "response")}, {}, {})
    cells = crossfit.crossed(crossfit.fold_of["g"])
    at = [p.prompt for p in cells].index("be dull")
    assert cells[at : at + 4] == [
        Passage("be dull", "dull text"), Passage("be dull", "bold text"),
        Passage("be bold", "dull text"), Passage("be bold", "bold text"),
    ]  # fmt: skip
    assert CrossFit({"main": ContrastSet(pairs(range(10), responses=False), "prompt")}, {}, {}).crossed(0) == []


def test_too_few_groups_for_the_folds_are_refused() -> None:
    with pytest.raises(ProbeError, match="at least 10 groups for 5 folds, found 9"):
        CrossFit({"main": ContrastSet(pairs(range(9)), "prompt")}, {}, {})


def test_topics_that_all_have_rated_stories_leave_something_to_learn_from() -> None:
    crossfit = CrossFit(
        {"main": ContrastSet(pairs(range(20)), "response")}, {"all": rated(range(20))}, {}, choose_on="all"
    )
    for part in (*crossfit.folds, *crossfit.halves):
        rows = crossfit.training("main", part, 0).rows
        learned, held = ({row.group for row in rows[split]} for split in ("train", "validation"))
        assert len(learned) >= 2 <= len(held)
        assert not learned & held
        assert any(row.side is None for row in rows["validation"])


def test_one_name_for_two_sets_and_a_single_fold_are_refused() -> None:
    main = {"main": ContrastSet(pairs(range(20)), "prompt")}
    with pytest.raises(ProbeError, match="'main' twice"):
        CrossFit(main, {"main": rated(range(3))}, {})
    with pytest.raises(ProbeError, match="at least 2, found 1"):
        CrossFit(main, {}, {}, n_folds=1)


def test_ratings_are_learned_from_whole_and_choose_the_layer_on_groups_of_their_own() -> None:
    texts = rated(range(20))
    crossfit = CrossFit(
        {"people": ContrastSet(texts, "response"), "instructions": ContrastSet(pairs(range(30, 50)), "prompt")},
        {}, {}, choose_on="people",
    )  # fmt: skip
    assert crossfit.metric_of("people") == "spearman"
    for part in crossfit.folds:
        data = crossfit.training("people", part, 0)
        learned, chosen, judged = (
            {row.group for row in rows}
            for rows in (
                *data.rows.values(),
                [crossfit.tests["people"].rows[i] for i in crossfit.rows_in("people", part.index)],
            )
        )
        assert not learned & chosen and not judged & (learned | chosen)
        assert learned | chosen | judged == {text.group for text in texts}
        rows = data.rows["train"] + data.rows["validation"]
        assert len(rows) == len(set(rows)) == sum(text.group in learned | chosen for text in texts)
        assert all(row.is_story for row in rows) and data.rated and data.examples_are == "texts"
        assert crossfit.crossed(part.index) == []
        carried = crossfit.training("instructions", part, 0)
        assert all(row.side for row in carried.rows["train"]) and carried.examples_are == "pairs"
        assert {row.group for row in carried.rows["validation"]} == learned | chosen


def test_fewer_examples_are_among_more_and_more_than_there_are_is_refused() -> None:
    crossfit = CrossFit({"people": ContrastSet(rated(range(20)), "response")}, {}, {}, choose_on="people")
    part = crossfit.folds[0]
    whole, ten, twenty = (crossfit.training("people", part, 0, n) for n in (None, 10, 20))
    for split, sizes in {"train": (10, 20), "validation": (2, 5)}.items():
        few, more, every = (set(data.rows[split]) for data in (ten, twenty, whole))
        assert (len(few), len(more)) == sizes
        assert few < more < every
    assert [row for row in whole.rows["train"] if row in set(twenty.rows["train"])] == twenty.rows["train"]
    assert crossfit.training("people", part, 0, 10).rows == ten.rows
    with pytest.raises(ProbeError, match=rf"at most {len(whole.examples)}, .* found 1000"):
        crossfit.training("people", part, 0, 1000)
