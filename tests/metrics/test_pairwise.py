"""Pairwise: a judge's habits cannot win, only what it says in both orders; win rates are hand counts."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from probe.errors import ProbeError
from probe.metrics.pairwise import Comparison, Winner, by_judge, by_number, comparisons, oriented, read_reply, win_rates

NAN = float("nan")


def made(n: int = 6, pairs: Sequence[tuple[str, str]] = (("bold", "dull"),)) -> list[Comparison]:
    """Comparisons of texts that say how good they are: bold 2, meek 1, dull 0."""
    sets = {
        name: [f"{name} text {i}, worth {w}" for i in range(n)] for name, w in (("bold", 2), ("meek", 1), ("dull", 0))
    }
    return comparisons(sets, [f"Write number {i}." for i in range(n)], [f"g{i // 2}" for i in range(n)], pairs)


def shown(question: str) -> tuple[str, str]:
    """The two texts of a question, found by their fences."""
    first, second = (question.split(f"=== Text {x} ===\n")[1].split("\n=== End")[0] for x in "AB")
    return first, second


def each(reply: Callable[[str, str], str]) -> Callable[[Sequence[str]], list[str]]:
    """A judge that replies to the two texts shown."""
    return lambda questions: [reply(*shown(question)) for question in questions]


def perfect(first: str, second: str) -> str:
    return "A" if first[-1] > second[-1] else "B"


@pytest.mark.parametrize(
    ("reply", "named"),
    [
        ("A", "A"),
        ("b.", "B"),
        ("a", "A"),
        ("Text B", "B"),
        ("**A**", "A"),
        ("(A)", "A"),
        ("B)", "B"),
        ("“B”", "B"),
        ("Answer: B", "B"),
        ("answer: a", "A"),
        ("**Final answer:** Text A.", "A"),
        ("The more creative text is A.", "A"),
        ("I would choose B", "B"),
        ("I'd pick option A!", "A"),
        ("I’d say B.", "B"),
        ("Text B is more creative.", "B"),
        ("A is the more creative one.", "A"),
        ("\n\n  B\n", "B"),
        ("B\n\nIt surprises, and its ending is bolder.", "B"),
        ("Answer: A\nAnswer: A", "A"),
    ],
)
def test_a_reply_that_names_one_text_is_read(reply: str, named: str) -> None:
    assert read_reply(reply) == named


@pytest.mark.parametrize(
    "reply",
    [
        "",
        " \n",
        "...",
        "Both",
        "A or B",
        "A/B",
        "A and B are equal.",
        "Neither A nor B",
        "Not A",
        "The less creative text is A.",
        "Text A is not more creative.",
        "Text A is less creative.",
        "Text A is more creative than Text B.",  # it names two texts; which one it favours is left to no guess
        "I cannot decide",
        "I",
        "C",
        "1",
        "tie",
        "A thing of beauty is a joy for ever.",
        "a story of an egg",
        "A. Once upon a time an egg sang.",  # the texts continued as a list
        "Answer: A story about an egg.",
        "The more creative text is a",  # cut off before its noun
        "Text A\nOnce upon a time an egg sang.",  # our own heading, echoed
        "Text A:\nOnce upon a time",
        "A\nB",
        "A\nNo, text b.",
        "B\nOr rather A.",
        "The more dull text is B.",
        "Plan B",
        "Aa",
        "Vitamin B is healthy.",
    ],
)
def test_a_reply_that_names_none_or_two_or_only_begins_with_an_article_is_unreadable(reply: str) -> None:
    assert read_reply(reply) is None


def test_the_concept_asked_for_is_the_one_that_a_reply_may_name() -> None:
    assert read_reply("The more deeply sad text is B", "deeply sad") == "B"
    assert read_reply("The more deeply sad text is B") is None


def test_a_judge_that_always_names_the_first_text_gives_only_ties() -> None:
    judged = by_judge(made(), each(lambda first, second: "A"))
    assert judged.verdicts == ["tie"] * 6
    assert (judged.first_named, judged.n_replies, judged.n_unreadable) == (1.0, 12, 0)
    assert win_rates(made(), judged.verdicts)["bold", "dull"].rate.value == 0.5
    assert by_judge(made(), each(lambda first, second: "B")).first_named == 0.0


@pytest.mark.parametrize(("pair", "rate", "verdict"), [(("bold", "dull"), 1.0, "a"), (("dull", "bold"), 0.0, "b")])
def test_a_judge_that_sees_the_difference_lets_the_better_set_win(
    pair: tuple[str, str], rate: float, verdict: str
) -> None:
    judged = by_judge(made(pairs=[pair]), each(perfect))
    assert judged.verdicts == [verdict] * 6
    assert judged.first_named == 0.5
    assert win_rates(made(pairs=[pair]), judged.verdicts)[pair].rate.value == rate


def test_each_comparison_is_asked_in_both_orders_through_one_call_with_all_that_is_needed() -> None:
    calls: list[Sequence[str]] = []

    def ask_all(questions: Sequence[str]) -> list[str]:
        calls.append(questions)
        return ["A"] * len(questions)

    by_judge(made(2), ask_all, "surprising")
    (questions,) = calls
    bold, dull = (tuple(f"{name} text {i}, worth {w}" for i in range(2)) for name, w in (("bold", 2), ("dull", 0)))
    texts = [(bold[0], dull[0]), (dull[0], bold[0]), (bold[1], dull[1]), (dull[1], bold[1])]
    assert [shown(question) for question in questions] == texts
    assert all(
        f"Write number {i // 2}." in question and "more surprising?" in question for i, question in enumerate(questions)
    )
    assert not any("{" in question for question in questions)
    braces = Comparison("{text_b}", "g", "x", "y", "{concept}", "{}")
    by_judge([braces], ask_all)
    assert shown(calls[1][0]) == ("{concept}", "{}")


def test_an_unreadable_reply_is_counted_and_its_comparison_is_not_scored() -> None:
    judged = by_judge(
        made(), each(lambda first, second: "Hm." if first.startswith("bold text 3") else perfect(first, second))
    )
    assert judged.verdicts == ["a", "a", "a", None, "a", "a"]
    assert (judged.n_replies, judged.n_unreadable) == (12, 1)
    assert judged.first_named == pytest.approx(5 / 11)
    found = win_rates(made(), judged.verdicts)["bold", "dull"]
    assert (found.rate.value, found.rate.n, found.n_unread, found.n_ties) == (1.0, 5, 1, 0)


def test_where_nothing_is_readable_no_number_is_given() -> None:
    judged = by_judge(made(), each(lambda first, second: "Both!"))
    assert (judged.verdicts, judged.n_unreadable) == ([None] * 6, 12)
    assert np.isnan(judged.first_named)
    found = win_rates(made(), judged.verdicts)["bold", "dull"]
    assert np.isnan([found.rate.value, found.rate.lower, found.rate.upper]).all()
    assert (found.rate.n, found.n_unread) == (0, 6)


def test_an_empty_text_stays_in_the_list_and_is_shown_to_nobody() -> None:
    sets = {"x": ["one", " \n", "three"], "y": ["uno", "dos", ""]}
    found = comparisons(sets, ["p", "q", "r"], ["g", "g", "h"], [("x", "y")])
    seen: list[str] = []

    def ask_all(questions: Sequence[str]) -> list[str]:
        seen.extend(text for question in questions for text in shown(question))
        return ["A", "B"] * (len(questions) // 2)

    judged = by_judge(found, ask_all)
    assert len(found) == 3
    assert sorted(seen) == ["one", "one", "uno", "uno"]
    assert (judged.verdicts, judged.n_replies, judged.n_unreadable) == (["a", None, None], 2, 0)


def test_texts_of_one_prompt_are_compared_pair_by_pair_and_a_set_must_be_whole() -> None:
    found = made(2, [("bold", "dull"), ("meek", "bold")])
    assert [(c.set_a, c.set_b, c.prompt, c.group) for c in found] == [
        ("bold", "dull", "Write number 0.", "g0"),
        ("bold", "dull", "Write number 1.", "g0"),
        ("meek", "bold", "Write number 0.", "g0"),
        ("meek", "bold", "Write number 1.", "g0"),
    ]
    assert (found[3].text_a, found[3].text_b) == ("meek text 1, worth 1", "bold text 1, worth 2")
    for sets, n in (({"x": ["a"], "y": ["b", "c"]}, 1), ({"y": ["b", "c"]}, 0)):
        with pytest.raises(ProbeError, match=f"set `x`: expected 2 texts, one for each prompt, found {n}"):
            comparisons(sets, ["p", "q"], ["g", "h"], [("y", "x")])


def test_the_higher_number_wins_and_without_two_numbers_it_cannot_be_told() -> None:
    a = [2.0, 1.0, 1.0, None, 1.0, NAN, 1.0, None]
    b = [1.0, 2.0, 1.0, 1.0, None, 1.0, NAN, None]
    assert by_number(a, b) == ["a", "b", "tie", None, None, None, None, None]


def test_a_win_rate_is_the_hand_count_with_ties_half() -> None:
    both = made(6, [("bold", "dull"), ("meek", "dull")])
    verdicts: list[Winner | None] = ["a", "a", "tie", "b", None, "a", "b", "b", "tie", "tie", None, None]
    found = win_rates(both, verdicts)
    assert list(found) == [("bold", "dull"), ("meek", "dull")]
    first, second = found.values()
    assert (first.rate.value, first.n_ties, first.n_unread) == (pytest.approx((3 + 0.5) / 5), 1, 1)
    assert (second.rate.value, second.n_ties, second.n_unread) == (pytest.approx((0 + 1) / 4), 2, 2)
    assert first.rate.n_groups == 3
    assert "too few groups" in str(first.rate)


@pytest.mark.simulation
def test_the_interval_of_a_win_rate_covers_when_topics_differ() -> None:
    rng = np.random.default_rng(0)
    inside, widths = [], []
    for _ in range(200):
        chance = rng.beta(2, 1, 30)  # of a topic; 2/3 on average
        won = rng.random((30, 5)) < chance[:, None]
        made_up = [Comparison("p", f"g{i}", "x", "y", "s", "t") for i in range(30) for _ in range(5)]
        verdicts: list[Winner | None] = ["a" if w else "b" for w in won.ravel()]
        rate = win_rates(made_up, verdicts)["x", "y"].rate
        inside.append(rate.lower <= 2 / 3 <= rate.upper)
        widths.append(rate.upper - rate.lower)
    assert 0.91 <= np.mean(inside) <= 0.99
    of_rows = 2 * 1.96 * np.sqrt(2 / 9 / 150)
    assert np.mean(widths) > 1.15 * of_rows  # texts of a topic are not independent


def test_orientation_puts_both_ways_round_together_and_changes_no_winner() -> None:
    straight, turned = made(4), made(4, [("dull", "bold")])
    mixed = [straight[0], turned[1], turned[2], straight[3]]
    found, verdicts = oriented(mixed, ["a", "b", "tie", None], ["plain", "bold", "dull"])
    assert found == straight
    assert verdicts == ["a", "a", "tie", None]
    assert list(win_rates(found, verdicts)) == [("bold", "dull")]
    assert oriented(mixed, ["a", "b", "tie", None], ["dull", "bold", "dull"])[1] == ["b", "b", "tie", None]
    with pytest.raises(ProbeError, match=r"found also \['dull'\]"):
        oriented(mixed, ["a"] * 4, ["bold"])
