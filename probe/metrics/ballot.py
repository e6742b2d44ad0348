"""Blinded pairs for people: a ballot that says nothing about where its texts come from, and a key that does."""

import csv
import hashlib
import io
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import zip_longest
from pathlib import Path

import numpy as np

from probe.data.rows import Preference
from probe.errors import ProbeError
from probe.files import atomic_write, from_json, write_json_lines
from probe.metrics.pairwise import MARGIN, Comparison, Winner
from probe.metrics.people import Agreement, agreement
from probe.shown.escapes import csv_cell, from_csv_cell

BALLOT, KEY = "ballot.csv", "ballot_key.jsonl"
COLUMNS = ("id", "prompt", "text_a", "text_b", "preferred")
"""Of a ballot; a voter fills in the last one: a, b or tie."""


@dataclass(frozen=True)
class Votes:
    """What people preferred; only comparisons with at least one vote, with their sides as shown."""

    comparisons: list[Comparison]
    verdicts: list[Winner]
    """What most voters said; a draw is a tie."""
    preferences: list[Preference]
    agreement: Agreement | None
    """Of the voters, a = 1, tie = 0, b = -1; None where no two of them voted on the same texts."""
    n_votes: int
    n_missing: int
    """Votes that were asked for and not given."""


@dataclass(frozen=True)
class _Sealed:
    """What the key knows of a line of the ballot."""

    id: str
    set_a: str
    set_b: str
    group: str
    sha256: str


def write_ballot(comparisons: Sequence[Comparison], folder: Path, n: int, seed: int) -> tuple[Path, Path]:
    """Draws pairs, evenly over the pairs of sets, shuffles them and their sides, and writes a ballot and its key.

    Pairs with an empty text, or with the same text twice, are left out. The key is to be kept from the voters.

    Args:
        comparisons: What to draw from, without replacement.
        folder: Where `ballot.csv` and `ballot_key.jsonl` go.
        n: How many pairs; all where there are fewer.
        seed: Of the draw, the order and the sides.

    Raises:
        ProbeError: where there is nothing to draw, or where votes would be overwritten.
    """
    ballot, key = folder / BALLOT, folder / KEY
    if ballot.exists() and any(row["preferred"].strip() for _, row in _rows(ballot)):
        raise ProbeError(f"{ballot}: expected no votes yet, found some; move the file away or choose another folder.")
    told_apart = [c for c in comparisons if c.complete and c.text_a.split() != c.text_b.split()]
    shown = _draw(told_apart, n, np.random.default_rng(seed))
    if not shown:
        raise ProbeError(
            "expected pairs of two different texts for a ballot, found none; give other sets or a larger n."
        )
    table = io.StringIO(newline="")
    writer = csv.writer(table)
    writer.writerow(COLUMNS)
    sealed = []
    # Numbers, counted after the shuffle: a spreadsheet would turn other opaque names, such as 1e23, into numbers.
    for number, c in enumerate(shown, start=1):
        writer.writerow([number, *(csv_cell(_lines(text)) for text in (c.prompt, c.text_a, c.text_b)), ""])
        sealed.append(_Sealed(str(number), c.set_a, c.set_b, c.group, _digest(c.prompt, c.text_a, c.text_b)))
    folder.mkdir(parents=True, exist_ok=True)
    write_json_lines(key, map(asdict, sealed))
    # Without the byte order mark a spreadsheet takes the file for another encoding.
    atomic_write(ballot, lambda temporary: temporary.write_bytes(table.getvalue().encode("utf-8-sig")))
    return ballot, key


def _draw(comparisons: Sequence[Comparison], n: int, rng: np.random.Generator) -> list[Comparison]:
    """Comparisons in the order and with the sides that voters will see; each set is on either side equally often."""
    of_pair: dict[tuple[str, str], list[Comparison]] = {}
    for c in comparisons:
        of_pair.setdefault((c.set_a, c.set_b), []).append(c)
    sided = []
    for members in of_pair.values():
        start = rng.integers(2)
        shuffled = [members[i] for i in rng.permutation(len(members))]
        sided.append([c.swapped if (start + i) % 2 else c for i, c in enumerate(shuffled)])
    in_turn = [c for turn in zip_longest(*sided) for c in turn if c]
    drawn = in_turn[: max(n, 0)]
    return [drawn[i] for i in rng.permutation(len(drawn))]


def read_votes(ballots: Sequence[Path], key: Path) -> Votes:
    """Reads filled-in ballots, one file a voter, named by the file; a spreadsheet may have saved them with `;`.

    Raises:
        ProbeError: naming file and line, for a vote, an id or a text that does not belong to this key.
    """
    voters = [path.stem for path in ballots]
    twice = sorted(name for name, times in Counter(voters).items() if times > 1)
    if not voters or twice:
        raise ProbeError(f"expected ballots with a file name for each voter, found {twice or 'none'}; rename them.")
    sealed = _read_key(key)
    cast = [_read_ballot(path, sealed) for path in ballots]
    of_line = {id: [votes.get(id, (None, None)) for votes in cast] for id in sealed}
    compared: list[Comparison] = []
    verdicts: list[Winner] = []
    ratings: list[list[float]] = []
    for of_voters in of_line.values():
        texts = next((comparison for comparison, vote in of_voters if vote), None)
        if texts:
            votes = [vote for _, vote in of_voters]
            compared.append(texts)
            verdicts.append(_majority([vote for vote in votes if vote]))
            ratings.append([MARGIN[vote] if vote else np.nan for vote in votes])
    matrix = np.array(ratings, dtype=np.float64).reshape(len(compared), len(voters))
    preferences = [
        Preference(c.text_a, c.text_b, verdict, c.group, c.prompt)
        for c, verdict in zip(compared, verdicts, strict=True)
    ]
    n_votes = int(np.isfinite(matrix).sum())
    agreed = agreement(matrix, [c.group for c in compared])
    return Votes(compared, verdicts, preferences, agreed, n_votes, len(sealed) * len(voters) - n_votes)


def _majority(votes: Sequence[Winner]) -> Winner:
    (first, times), *others = Counter(votes).most_common()
    return "tie" if others and others[0][1] == times else first


def _read_key(path: Path) -> dict[str, _Sealed]:
    if not path.is_file():
        raise ProbeError(f"{path}: expected the key that was written with the ballot, found no file; check the path.")
    sealed = {}
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        try:
            record = _Sealed(**from_json(line))
        except (ValueError, TypeError) as error:
            raise ProbeError(
                f"{path}:{number}: expected a line of a ballot's key, but {error}; write it anew."
            ) from error
        sealed[record.id] = record
    return sealed


def _read_ballot(path: Path, sealed: dict[str, _Sealed]) -> dict[str, tuple[Comparison, Winner | None]]:
    """Id -> what was compared, and the vote."""
    votes: dict[str, tuple[Comparison, Winner | None]] = {}
    for place, row in _rows(path):
        id, (prompt, text_a, text_b) = row["id"].strip(), (from_csv_cell(_lines(row[name])) for name in COLUMNS[1:4])
        if id not in sealed:
            raise ProbeError(f"{place}: expected an id of the key, found {id!r}; is this the ballot of another key?")
        if id in votes:
            raise ProbeError(f"{place}: expected each id once, found {id!r} again; remove one of the rows.")
        line = sealed[id]
        if _digest(prompt, text_a, text_b) != line.sha256:
            raise ProbeError(f"{place}: expected id {id!r} with the texts of the ballot, found others; restore them.")
        vote = row["preferred"].strip().lower()
        known: Winner | None = next((winner for winner in MARGIN if winner == vote), None)
        if vote and not known:
            raise ProbeError(
                f"{place}: expected `preferred` to be a, b, tie or empty, found {vote[:60]!r}; correct it."
            )
        votes[id] = Comparison(prompt, line.group, line.set_a, line.set_b, text_a, text_b), known
    return votes


def _rows(path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """Where each filled row stands, and its cells."""
    if not path.is_file():
        raise ProbeError(f"{path}: expected a ballot, found no file; check the path.")
    try:
        text = path.read_bytes().decode("utf-8-sig")
        header = (text.splitlines() or [""])[0]
        fitting = [d for d in ",;\t" if set(COLUMNS) <= set(next(csv.reader([header], delimiter=d)))]
        if not fitting:
            raise ProbeError(f"{path}: expected the columns {', '.join(COLUMNS)}, found {header[:60]!r}; restore them.")
        reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=fitting[0], restval="", strict=True)
        for row in reader:
            place = f"{path}:{reader.line_num}"
            if any(row.pop(None, [])):
                raise ProbeError(f"{place}: expected no cells beyond the last column, found some; remove them.")
            if any(cell.strip() for cell in row.values()):
                yield place, row
    except (UnicodeDecodeError, csv.Error) as error:
        raise ProbeError(f"{path}: expected CSV in UTF-8, but {error}; save it again as such.") from error


def _digest(*texts: str) -> str:
    """Of the words alone: spreadsheets exchange line ends and trim cells."""
    return hashlib.sha256(json.dumps([text.split() for text in texts]).encode()).hexdigest()


def _lines(text: str) -> str:
    """The text with line ends that all spreadsheets know."""
    return text.replace("\r\n", "\n").replace("\r", "\n")
