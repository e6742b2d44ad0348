"""Rows: whatever a file holds, it ends in complete rows or in one sentence with file and line."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from probe.data import texts
from probe.data.contrast import read_contrast
from probe.data.reading import Passage
from probe.data.rows import Preference, RatedText, TextPair, read_rows
from probe.data.splits import ContrastData
from probe.errors import ProbeError
from probe.metrics import texts as textstats

PAIR: dict[str, Any] = {"creative": "Write wildly.", "uncreative": "Write plainly.", "group": "town"}
STORY: dict[str, Any] = {"text": "A lamp hums.", "rating": 0.5, "group": "town"}
SURROGATE = chr(0xD800)


def write(path: Path, *lines: bytes | str | dict[str, Any]) -> Path:
    encoded = [json.dumps(line) if isinstance(line, dict) else line for line in lines]
    path.write_bytes(b"\n".join(line.encode() if isinstance(line, str) else line for line in encoded) + b"\n")
    return path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "rows.jsonl"


def test_good_rows_are_read_in_order_and_further_fields_are_ignored(file: Path) -> None:
    full = PAIR | {"response_creative": "Stars sing.", "response_uncreative": "He ate.", "author": None}
    write(file, PAIR, full)
    assert read_rows(file, TextPair) == [
        TextPair("Write wildly.", "Write plainly.", "town"),
        TextPair("Write wildly.", "Write plainly.", "town", "Stars sing.", "He ate."),
    ]
    write(file, STORY | {"factors": {"mood": "calm"}}, STORY | {"rating": 2, "prompt": "Tell me.", "group": 7})
    assert read_rows(str(file), RatedText) == [
        RatedText("A lamp hums.", 0.5, "town"),
        RatedText("A lamp hums.", 2.0, "7", "Tell me."),
    ]


def test_a_csv_file_is_read_like_jsonl_with_one_column_for_each_rater(tmp_path: Path) -> None:
    file = tmp_path / "rated.csv"
    file.write_text(
        '\ufefftext,rating,group,rater_ann,rater_bo,note\n"A lamp, humming\nall night",0.5,7,0.25,0.75,x\nDull.,1,8,,1,\n',
        encoding="utf-8",
    )
    assert read_rows(file, RatedText) == [
        RatedText("A lamp, humming\nall night", 0.5, "7", raters={"ann": 0.25, "bo": 0.75}),
        RatedText("Dull.", 1.0, "8", raters={"bo": 1.0}),
    ]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("text,rating,group\nA,high,g\n", "rated.csv:2: expected `rating` to be a finite number, found 'high'"),
        ("text,rating,group,rater_x\nA,1,g,?\n", "`raters.x` to be a finite number"),
        ("text,rating,group\nA,1,g,more\n", "rated.csv:2: more cells"),
        ("text,rating,group\n,1,g\n", "`text` is missing"),
        ('text,rating,group\n"A"b,1,g\n', "expected CSV"),
        ("text,rating,group\n\xe9,1,g\n", "expected CSV in UTF-8"),
        ("text,rating,group\n", "found an empty file"),
    ],
)
def test_a_bad_csv_file_is_refused_with_its_line(tmp_path: Path, content: str, said: str) -> None:
    file = tmp_path / "rated.csv"
    file.write_bytes(content.encode("latin-1"))
    with pytest.raises(ProbeError, match=re.escape(said)):
        read_rows(file, RatedText)


def test_ratings_by_name_and_preferences_are_read_and_checked(file: Path) -> None:
    assert read_rows(write(file, STORY | {"raters": {"ann": 1}}), RatedText)[0].raters == {"ann": 1.0}
    better = {"text_a": "A.", "text_b": "B.", "preferred": "tie", "group": "g"}
    assert read_rows(write(file, better), Preference) == [Preference("A.", "B.", "tie", "g")]
    for kind, bad, said in (
        (RatedText, STORY | {"raters": [1, 2]}, "`raters` to be rater: number"),
        (RatedText, STORY | {"raters": {"ann": None}}, "`raters.ann` to be a finite number"),
        (Preference, better | {"preferred": "A"}, "`preferred` to be a, b or tie"),
    ):
        with pytest.raises(ProbeError, match=re.escape(said)):
            read_rows(write(file, bad), kind)


def test_letters_of_every_alphabet_and_paired_surrogates_are_read(file: Path) -> None:
    text = "Öl, ночь, 夜 and \U0001f319"
    assert read_rows(write(file, STORY | {"text": text}), RatedText)[0].text == text  # escaped, as surrogate pairs
    assert read_rows(write(file, json.dumps(STORY | {"text": text}, ensure_ascii=False)), RatedText)[0].text == text


BAD_LINES: dict[str, bytes | str] = {
    "malformed JSON": '{"text": "A", "rating": }',
    "a torn line": json.dumps(STORY)[:20],
    "a blank line": "",
    "two objects": json.dumps(STORY) * 2,
    "invalid utf-8": b'{"text": "\xff\xfe", "rating": 1, "group": "g"}',
    "a list": "[1, 2]",
    "a string": '"text"',
    "null": "null",
    "nested beyond reason": "[" * 200_000,
}


@pytest.mark.parametrize("name", BAD_LINES)
def test_a_line_that_is_no_json_object_is_refused_on_one_line_with_its_number(file: Path, name: str) -> None:
    write(file, STORY, STORY, BAD_LINES[name], STORY)
    with pytest.raises(ProbeError, match=r"rows\.jsonl:3: expected") as refusal:
        read_rows(file, RatedText)
    assert "\n" not in str(refusal.value)


BAD_FIELDS: dict[str, tuple[type[TextPair] | type[RatedText], dict[str, Any]]] = {
    "empty text": (RatedText, {"text": ""}),
    "blank text": (RatedText, {"text": " \n\t"}),
    "null text": (RatedText, {"text": None}),
    "number for text": (RatedText, {"text": 3}),
    "list for text": (RatedText, {"text": ["A"]}),
    "lone surrogate": (RatedText, {"text": f"half {SURROGATE}"}),
    "empty prompt": (RatedText, {"prompt": ""}),
    "null rating": (RatedText, {"rating": None}),
    "text for rating": (RatedText, {"rating": "0.5"}),
    "boolean rating": (RatedText, {"rating": True}),
    "NaN rating": (RatedText, {"rating": float("nan")}),
    "infinite rating": (RatedText, {"rating": float("-inf")}),
    "a rating no float can hold": (RatedText, {"rating": 10**400}),
    "empty group": (RatedText, {"group": ""}),
    "null group": (RatedText, {"group": None}),
    "fractional group": (RatedText, {"group": 1.5}),
    "boolean group": (RatedText, {"group": True}),
    "surrogate group": (TextPair, {"group": SURROGATE}),
    "empty creative": (TextPair, {"creative": ""}),
    "object for uncreative": (TextPair, {"uncreative": {}}),
    "empty response": (TextPair, {"response_creative": " "}),
    "number for response": (TextPair, {"response_uncreative": 0}),
}


@pytest.mark.parametrize("name", BAD_FIELDS)
def test_a_bad_field_is_refused_by_name_with_file_and_line(file: Path, name: str) -> None:
    kind, change = BAD_FIELDS[name]
    good = PAIR if kind is TextPair else STORY
    write(file, good, good | change)
    with pytest.raises(ProbeError, match=rf"rows\.jsonl:2: .*`{next(iter(change))}`"):
        read_rows(file, kind)


@pytest.mark.parametrize(("kind", "good"), [(TextPair, PAIR), (RatedText, STORY)])
def test_a_missing_field_is_refused_by_name_and_the_needed_ones_are_listed(
    file: Path, kind: type[Any], good: dict[str, Any]
) -> None:
    for missing in good:
        write(file, {name: value for name, value in good.items() if name != missing})
        with pytest.raises(ProbeError, match=rf"rows\.jsonl:1: the field `{missing}` is missing") as refusal:
            read_rows(file, kind)
        assert all(f"`{name}`" in str(refusal.value) for name in good)


def test_a_missing_file_a_folder_and_an_empty_file_are_refused_by_path(file: Path) -> None:
    with pytest.raises(ProbeError, match=r"rows\.jsonl: no such file"):
        read_rows(file, RatedText)
    with pytest.raises(ProbeError, match="no such file"):
        read_rows(file.parent, RatedText)
    file.touch()
    with pytest.raises(ProbeError, match=r"rows\.jsonl: .*found an empty file"):
        read_rows(file, RatedText)


def test_the_pooled_text_is_the_response_where_there_is_one() -> None:
    assert Passage("asked").pooled == "asked"
    assert Passage("asked", "told").pooled == "told"


def test_sides_may_be_called_more_and_less_in_jsonl_and_in_csv(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(
        '{"more": "Good evening.", "less": "Hi.", "response_more": "Sir.", "group": "greeting"}\n'
    )
    (tmp_path / "a.csv").write_text("more,less,response_more,group\nGood evening.,Hi.,Sir.,greeting\n")
    for name in ("a.jsonl", "a.csv"):
        assert read_rows(tmp_path / name, TextPair) == [TextPair("Good evening.", "Hi.", "greeting", "Sir.")]


def test_the_extremes_of_each_group_of_rated_texts_make_pairs_under_one_instruction(file: Path) -> None:
    rated = [
        ("a", 0, "dull a"),
        ("a", 1, "fair a"),
        ("a", 2, "wild a"),
        ("b", 5, "b"),
        ("c", 1.5, "dull c"),
        ("c", 3, "wild c"),
    ]
    file.write_text(
        "".join(json.dumps({"text": t, "rating": r, "group": g, "prompt": f"On {g}."}) + "\n" for g, r, t in rated)
    )
    pairs, texts = read_contrast(file)
    assert pairs == [TextPair(f"On {g}.", f"On {g}.", g, f"wild {g}", f"dull {g}") for g in "ac"]
    assert [text.text for text in texts] == [t for _, _, t in rated]


def test_of_comparisons_the_preferred_text_is_the_creative_side_and_a_tie_is_none(file: Path) -> None:
    compared = [("x", "y", "a"), ("x", "z", "b"), ("y", "z", "tie")]
    rows = [{"text_a": a, "text_b": b, "preferred": p, "group": "g", "prompt": "On g."} for a, b, p in compared]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    pairs, texts = read_contrast(file)
    assert pairs == [TextPair("On g.", "On g.", "g", "x", "y"), TextPair("On g.", "On g.", "g", "z", "x")]
    assert texts == []
    file.write_text(json.dumps(rows[2]) + "\n")
    with pytest.raises(ProbeError, match="found ties alone"):
        read_contrast(file)


def test_rated_texts_without_a_contrast_in_any_group_are_refused(file: Path) -> None:
    file.write_text("".join(json.dumps({"text": t, "rating": 1, "group": g}) + "\n" for g in "ab" for t in "xy"))
    with pytest.raises(ProbeError, match="the same `group`"):
        read_contrast(file)


def test_a_file_of_pairs_gives_its_pairs_and_no_rated_texts(file: Path) -> None:
    file.write_text(json.dumps({"creative": "A.", "uncreative": "B.", "group": "g"}) + "\n")
    assert read_contrast(file) == ([TextPair("A.", "B.", "g")], [])


COMPOSED, DECOMPOSED = "caf\u00e9 by the sea", "cafe\u0301 by the sea"


@pytest.mark.parametrize("name", [DECOMPOSED, f" {COMPOSED}\t", "caf\u00e9  by\u00a0the \n sea"])
@pytest.mark.parametrize("kind", [TextPair, RatedText, Preference])
def test_groups_that_differ_in_nothing_that_is_seen_are_one_and_that_is_said_once(
    file: Path, name: str, kind: type[TextPair | RatedText | Preference]
) -> None:
    row = PAIR | STORY | {"text_a": "A.", "text_b": "B.", "preferred": "a"}
    write(file, row | {"group": COMPOSED}, row | {"group": name}, row | {"group": name})
    with pytest.warns(UserWarning, match="2 names of groups or raters were normalised") as said:
        assert {found.group for _ in range(2) for found in read_rows(file, kind)} == {COMPOSED}
    assert len(said) == 1


@pytest.mark.filterwarnings("error")
def test_names_that_are_normal_are_left_as_they_are_without_a_word(file: Path) -> None:
    write(file, STORY | {"group": COMPOSED, "raters": {"Ann B": 1, "ann b": 2}})
    assert read_rows(file, RatedText) == [RatedText("A lamp hums.", 0.5, COMPOSED, raters={"Ann B": 1.0, "ann b": 2.0})]


@pytest.mark.filterwarnings("ignore:.*were normalised")
def test_a_rater_is_one_person_however_the_name_is_spaced_and_rates_a_text_once(file: Path) -> None:
    write(file, STORY | {"raters": {"ann": 1}}, STORY | {"raters": {"ann ": 2}})
    assert [row.raters for row in read_rows(file, RatedText)] == [{"ann": 1.0}, {"ann": 2.0}]
    write(file, STORY | {"raters": {"ann": 1, "ann ": 2}})
    with pytest.raises(ProbeError, match=r"rows.jsonl:1: expected one rating of each rater"):
        read_rows(file, RatedText)
    table = file.with_suffix(".csv")
    table.write_text("text,rating,group,rater_ann,rater_bo \nA lamp hums.,0.5, town ,1,2\n")
    assert read_rows(table, RatedText) == [RatedText("A lamp hums.", 0.5, "town", raters={"ann": 1.0, "bo": 2.0})]


@pytest.mark.filterwarnings("ignore:.*were normalised")
def test_one_topic_written_in_two_ways_stands_on_one_side_of_a_split(tmp_path: Path) -> None:
    topics = [COMPOSED, *(f"topic {i}" for i in range(8))]
    pairs = write(tmp_path / "pairs.jsonl", *(PAIR | {"group": t} for t in [*topics, DECOMPOSED, f"{COMPOSED} "]))
    stories = write(tmp_path / "stories.jsonl", *(STORY | {"group": f" {t}"} for t in topics[:2]))
    data = ContrastData(str(pairs), test_stories=str(stories))
    data.setup("fit")
    assert {split for split, rows in data.rows.items() for row in rows if row.group == COMPOSED} == {"test"}
    assert sum(row.group == COMPOSED for row in data.rows["test"]) == 3 * 2 + 1


def test_a_word_is_the_same_word_in_either_unicode_form() -> None:
    assert texts.words_of(COMPOSED) == texts.words_of(DECOMPOSED)
    assert textstats.type_token_ratio(f"{COMPOSED} {DECOMPOSED}") == 0.5


@pytest.mark.parametrize("name", ["hens\u200b", "\ufeffhens", "he\u00adns", "he\u2060ns"])
def test_a_name_with_something_of_no_width_in_it_is_the_same_name(tmp_path: Path, name: str) -> None:
    pair = {"creative": "a", "uncreative": "b"}
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(pair | {"group": g}) + "\n" for g in ("hens", name)))
    with pytest.warns(UserWarning, match="were normalised"):
        assert {row.group for row in read_rows(tmp_path / "p.jsonl", TextPair)} == {"hens"}
    (tmp_path / "p.jsonl").write_text(json.dumps(pair | {"group": "\u200b"}) + "\n")
    with pytest.raises(ProbeError, match="expected `group` to be a non-empty text"):
        read_rows(tmp_path / "p.jsonl", TextPair)
