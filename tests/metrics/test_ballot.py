"""Ballots: what voters see is blind and what they say comes back whole, through spreadsheets and against tampering."""

import csv
import json
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from probe.data.rows import Preference, read_rows
from probe.errors import ProbeError
from probe.files import write_json_lines
from probe.metrics.ballot import read_votes, write_ballot
from probe.metrics.pairwise import Comparison, comparisons, oriented, win_rates
from probe.metrics.people import agreement

Row = dict[str, str]
NAN = np.nan
ODD = [
    'comma, "quote" and ; semicolon',
    "two\nlines\n\nand more",
    "naïve — 創造 🥚",
    '"',
    "'tis night",
    "tab\tinside",
    "=1+1",
    "'=1+1",
    "+1",
    "-1",
    "@SUM(A1)",
    "\t=1",
    "\n=1",
    "＝1",
    "a,b;c\td",
    "1e23",
]
"""What spreadsheets and CSV readers stumble over."""


def made(n: int = 40, pairs: Sequence[tuple[str, str]] = (("steered", "plain"),)) -> list[Comparison]:
    """Texts that a voter can tell apart: the steered ones glow, the others do not."""
    sets = {
        "steered": [f"A lamp {i} that glows." for i in range(n)],
        "plain": [f"A lamp {i}." for i in range(n)],
        "random": [f"A lamp {i} there." for i in range(n)],
    }
    return comparisons(sets, [f"Write of lamp {i}." for i in range(n)], [f"g{i // 2}" for i in range(n)], pairs)


def rows_of(path: Path) -> list[Row]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


def voted(ballot: Path, name: str, vote: Callable[[Row], str], delimiter: str = ",", bom: bool = True) -> Path:
    """A voter's copy of the ballot, filled in and saved as a spreadsheet does."""
    path, rows = ballot.with_name(f"{name}.csv"), rows_of(ballot)
    with path.open("w", encoding="utf-8-sig" if bom else "utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(row | {"preferred": vote(row)} for row in rows)
    return path


def prefers_glow(row: Row) -> str:
    return "a" if "glows" in row["text_a"] else "b" if "glows" in row["text_b"] else "tie"


@pytest.mark.parametrize("seed", range(5))
def test_a_voter_who_knows_the_better_set_lets_it_win_whatever_the_shuffles(tmp_path: Path, seed: int) -> None:
    ballot, key = write_ballot(made(), tmp_path, 30, seed)
    votes = read_votes([voted(ballot, "ann", prefers_glow)], key)
    assert (votes.n_votes, votes.n_missing, votes.agreement) == (30, 0, None)
    assert set(votes.verdicts) == {"a", "b"}
    found = win_rates(*oriented(votes.comparisons, votes.verdicts, ["plain", "steered"]))
    assert {pair: (rate.rate.value, rate.rate.n) for pair, rate in found.items()} == {("plain", "steered"): (0.0, 30)}
    originals = made()
    assert all(c in originals or c.swapped in originals for c in votes.comparisons)


def test_the_ballot_tells_nothing_about_sets_and_neither_order_nor_side_depends_on_them(tmp_path: Path) -> None:
    both = made(400, [("steered", "plain"), ("random", "plain")])
    ballot, key = write_ballot(both, tmp_path, 600, 3)
    rows = rows_of(ballot)
    assert list(rows[0]) == ["id", "prompt", "text_a", "text_b", "preferred"]
    assert not any(row["preferred"] for row in rows)
    assert not any(name in ballot.read_text(encoding="utf-8") for name in ("steered", "plain", "random", "g1"))
    assert [row["id"] for row in rows] == [str(i) for i in range(1, 601)]
    sealed = {line["id"]: line for line in map(json.loads, key.read_text(encoding="utf-8").splitlines())}
    pair = [frozenset((sealed[row["id"]]["set_a"], sealed[row["id"]]["set_b"])) for row in rows]
    assert set(Counter(pair).values()) == {300}
    again = np.mean([one == next_one for one, next_one in pairwise(pair)])
    assert abs(again - 0.5) < 3 * 0.5 / np.sqrt(599)  # no set follows another by rule
    for better, mark in (("steered", "glows"), ("random", "there")):
        place = [i for i, names in enumerate(pair) if better in names]
        on_a = [mark in rows[i]["text_a"] for i in place]
        assert sum(on_a) == 150
        assert abs(np.mean(place) - 300) < 3 * 600 / np.sqrt(12 * 300)  # of a set of 300, drawn evenly
        assert abs(np.corrcoef(np.arange(300), on_a)[0, 1]) < 3 / np.sqrt(300)
        alternates = np.mean([one != next_one for one, next_one in pairwise(on_a)])
        assert abs(alternates - 0.5) < 3 * 0.5 / np.sqrt(299)
        drawn = {int(rows[i]["prompt"].split()[-1].rstrip(".")) for i in place}
        assert len(drawn) == 300  # without replacement
        assert abs(np.mean(list(drawn)) - 199.5) < 3 * 400 / np.sqrt(12 * 300)  # and not the first ones


def test_a_seed_gives_one_ballot_and_another_seed_another(tmp_path: Path) -> None:
    written = [
        [path.read_bytes() for path in write_ballot(made(), tmp_path / str(i), 20, seed)]
        for i, seed in enumerate((7, 7, 8))
    ]
    assert written[0] == written[1]
    assert written[0][0] != written[2][0]


def test_pairs_that_cannot_be_told_apart_are_left_out_and_fewer_than_asked_for_is_all(tmp_path: Path) -> None:
    odd = [("same", "same"), ("same", " same\n"), ("", "text"), ("text", " "), ("one", "two")]
    found = [Comparison("p", "g", "x", "y", a, b) for a, b in odd]
    ballot, _ = write_ballot(found, tmp_path, 99, 0)
    assert [{row["text_a"], row["text_b"]} for row in rows_of(ballot)] == [{"one", "two"}]
    for few, n in ((found[:4], 99), (found, 0)):
        with pytest.raises(ProbeError, match="expected pairs of two different texts"):
            write_ballot(few, tmp_path, n, 0)


@pytest.mark.parametrize(("delimiter", "bom"), [(",", True), (";", True), (";", False), ("\t", True)])
def test_texts_come_back_as_they_were_from_any_spreadsheet(tmp_path: Path, delimiter: str, bom: bool) -> None:
    texts = [Comparison(text, f"g{i}", "x", "y", text, f"{text} other") for i, text in enumerate(ODD)]
    ballot, key = write_ballot(texts, tmp_path, 99, 0)
    assert ballot.read_bytes().startswith(b"\xef\xbb\xbf")
    votes = read_votes([voted(ballot, "ann", lambda row: "tie", delimiter, bom)], key)
    assert {c if c.set_a == "x" else c.swapped for c in votes.comparisons} == set(texts)


def test_no_cell_begins_with_what_a_spreadsheet_would_run(tmp_path: Path) -> None:
    ballot, _ = write_ballot([Comparison(t, "g", "x", "y", t, f"{t} other") for t in ODD], tmp_path, 99, 0)
    cells = [cell for row in rows_of(ballot) for cell in row.values()]
    assert not [cell for cell in cells if cell.startswith(tuple("=+-@\t\r\n＝＋－＠"))]
    assert "'=1+1" in cells
    assert "'tis night" in cells


def test_line_ends_trimmed_cells_and_dropped_apostrophes_are_no_tampering(tmp_path: Path) -> None:
    texts = [Comparison("p", "g", "x", "y", "one\r\ntwo\rthree \n", "=1")]
    ballot, key = write_ballot(texts, tmp_path, 1, 0)
    plain = ballot.read_text(encoding="utf-8-sig").replace("\r\n", "\n")
    path = tmp_path / "ann.csv"
    saved = plain.replace('three \n"', 'three"').replace("'=1", "=1").replace("p,", "p ,").replace("\n", "\r\n")
    path.write_bytes(saved.replace(",\r\n", ",B\r\n").encode() + b",,,,\r\n")
    (found,) = read_votes([path], key).comparisons
    assert {found.text_a, found.text_b} == {"one\ntwo\nthree", "=1"}


def damaged(ballot: Path, change: Callable[[list[Row]], object], name: str = "ann") -> Path:
    path, rows = ballot.with_name(f"{name}.csv"), rows_of(ballot)
    change(rows)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda rows: rows[2].update(text_b="A lamp of mine."),
            r"ann.csv:4: expected id '3' with the texts of the ballot",
        ),
        (lambda rows: rows[2].update(prompt="Write."), r"ann.csv:4: expected id '3' with the texts of the ballot"),
        (
            lambda rows: rows[2].update(text_a=rows[2]["text_b"], text_b=rows[2]["text_a"]),
            "expected id '3' with the texts",
        ),
        (lambda rows: rows[1].update(id="99"), r"ann.csv:3: expected an id of the key, found '99'"),
        (lambda rows: rows.append(rows[0]), r"ann.csv:12: expected each id once, found '1' again"),
        (
            lambda rows: rows[4].update(preferred="c"),
            r"ann.csv:6: expected `preferred` to be a, b, tie or empty, found 'c'",
        ),
        (lambda rows: [row.pop("preferred") for row in rows], "ann.csv: expected the columns id, prompt"),
    ],
)
def test_what_does_not_belong_to_the_key_is_refused_by_file_and_line(
    tmp_path: Path, change: Callable[[list[Row]], object], said: str
) -> None:
    ballot, key = write_ballot(made(), tmp_path, 10, 0)
    with pytest.raises(ProbeError, match=said):
        read_votes([damaged(ballot, change)], key)


def test_files_that_are_no_ballot_or_no_key_are_refused_in_one_sentence(tmp_path: Path) -> None:
    ballot, key = write_ballot(made(), tmp_path, 5, 0)
    ann = voted(ballot, "ann", prefers_glow)
    other = tmp_path / "other"
    other.mkdir()
    for path, said in (
        (tmp_path / "nobody.csv", "nobody.csv: expected a ballot, found no file"),
        (other / "latin.csv", "latin.csv: expected CSV in UTF-8, but"),
        (other / "open.csv", "open.csv: expected CSV in UTF-8, but"),
        (other / "more.csv", "more.csv:2: expected no cells beyond the last column"),
    ):
        header = b"id,prompt,text_a,text_b,preferred\r\n"
        (other / "latin.csv").write_bytes(header + b"1,caf\xe9,x,y,a\r\n")
        (other / "open.csv").write_bytes(header + b'1,"p,x,y,a\r\n')
        (other / "more.csv").write_bytes(header + b"1,p,x,y,,a\r\n")
        with pytest.raises(ProbeError, match=said):
            read_votes([path], key)
    (other / "ann.csv").write_bytes(ann.read_bytes())
    with pytest.raises(ProbeError, match=r"a file name for each voter, found \['ann'\]"):
        read_votes([ann, other / "ann.csv"], key)
    with pytest.raises(ProbeError, match="found none"):
        read_votes([], key)
    with pytest.raises(ProbeError, match="expected the key"):
        read_votes([ann], tmp_path / "no.jsonl")
    for line in ("{", "[]", '{"id": "1"}'):
        (other / "key.jsonl").write_text(line)
        with pytest.raises(ProbeError, match=r"key.jsonl:1: expected a line of a ballot's key"):
            read_votes([ann], other / "key.jsonl")


def test_a_ballot_with_a_vote_is_never_overwritten_and_one_without_is(tmp_path: Path) -> None:
    ballot, key = write_ballot(made(), tmp_path, 10, 0)
    write_ballot(made(), tmp_path, 10, 1)
    ballot.write_bytes(damaged(ballot, lambda rows: rows[7].update(preferred="tie")).read_bytes())
    before = ballot.read_bytes(), key.read_bytes()
    with pytest.raises(ProbeError, match=r"ballot.csv: expected no votes yet, found some"):
        write_ballot(made(), tmp_path, 10, 2)
    assert (ballot.read_bytes(), key.read_bytes()) == before


# Ann, Bo and Cy on five pairs: a clear majority, a draw of a and b, a tie that most say, one vote, none.
CAST = [("a", "A ", ""), (" b", "a", ""), ("Tie", "tie", "a"), ("", "", "b"), ("", "", "")]
MATRIX = np.array([[1, 1, NAN], [-1, 1, NAN], [0, 0, 1], [NAN, NAN, -1]])


def test_voters_are_put_together_by_majority_and_their_agreement_is_that_of_people(tmp_path: Path) -> None:
    ballot, key = write_ballot(made(), tmp_path, 5, 0)
    papers = [
        voted(ballot, name, lambda row, v=v: CAST[int(row["id"]) - 1][v])  # type: ignore[misc]
        for v, name in enumerate(("ann", "bo", "cy"))
    ]
    votes = read_votes(papers, key)
    rows = rows_of(ballot)
    assert [c.text_a for c in votes.comparisons] == [row["text_a"] for row in rows[:4]]
    assert votes.verdicts == ["a", "tie", "tie", "b"]
    assert (votes.n_votes, votes.n_missing) == (8, 7)
    assert votes.agreement is not None
    np.testing.assert_equal(votes.agreement, agreement(MATRIX, [c.group for c in votes.comparisons]))
    two = read_votes(papers[:2], key)
    np.testing.assert_equal(two.agreement, agreement(MATRIX[:3, :2], [c.group for c in two.comparisons]))
    assert (two.n_votes, two.n_missing) == (6, 4)


def test_a_row_that_a_voter_removed_is_a_missing_vote_and_no_vote_at_all_is_no_comparison(tmp_path: Path) -> None:
    ballot, key = write_ballot(made(), tmp_path, 10, 0)
    shorter = read_votes([damaged(voted(ballot, "ann", prefers_glow), lambda rows: rows.pop(3), "bo")], key)
    assert (len(shorter.comparisons), shorter.n_votes, shorter.n_missing) == (9, 9, 1)
    none = read_votes([voted(ballot, "ann", lambda row: ""), voted(ballot, "bo", lambda row: " ")], key)
    assert (none.comparisons, none.verdicts, none.preferences, none.agreement, none.n_missing) == ([], [], [], None, 20)


def test_preferences_are_rows_that_read_back_equal(tmp_path: Path) -> None:
    texts = [Comparison(t, f"g{i}", "x", "y", t, f"{t}\u2028other\x0c") for i, t in enumerate(ODD)]
    ballot, key = write_ballot(texts, tmp_path, 99, 0)
    votes = read_votes([voted(ballot, "ann", lambda row: "ab"[int(row["id"]) % 2])], key)
    assert [(p.text_a, p.text_b, p.preferred, p.group, p.prompt) for p in votes.preferences] == [
        (c.text_a, c.text_b, v, c.group, c.prompt) for c, v in zip(votes.comparisons, votes.verdicts, strict=True)
    ]
    write_json_lines(tmp_path / "votes.jsonl", map(vars, votes.preferences))
    assert read_rows(tmp_path / "votes.jsonl", Preference) == votes.preferences
