"""votes: ballots that people have filled in, read back as preferences and win rates."""

from pathlib import Path

from probe.errors import ProbeError
from probe.options.types import FilePath


def run(files: list[str], key: FilePath, output: FilePath = "preferences.jsonl") -> int:
    """Reads filled-in ballots back: who won, how far people agree, and preferences that `fit` and `compare` take.

    Args:
        files: Filled-in copies of ballot.csv, one for each person.
        key: The ballot_key.jsonl that was written beside it.
        output: Where the preferences go, as JSONL for `test_preferences`.
    """
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from probe.files import try_file, write_json_lines
    from probe.metrics.ballot import read_votes
    from probe.metrics.pairwise import oriented, win_rates
    from probe.shown.terminal import Terminal

    if not files:
        raise ProbeError("expected filled-in ballots, found none; name them: probe votes ann.csv --key KEY.")
    try_file(output, "--output")
    votes = read_votes([Path(file) for file in files], Path(key))
    write_json_lines(Path(output), map(vars, votes.preferences))
    console = Terminal()
    order = ["steered", *dict.fromkeys(name for c in votes.comparisons for name in (c.set_a, c.set_b))]
    table = Table(box=SIMPLE_HEAD, title=f"{votes.n_votes} votes of {len(files)} people, {votes.n_missing} not cast")
    for name in ("", "won by the first, ties half [95 % interval]", "ties"):
        table.add_column(name)
    for (a, b), rate in win_rates(*oriented(votes.comparisons, list(votes.verdicts), order)).items():
        table.add_row(f"{a} v. {b}", str(rate.rate), str(rate.n_ties))
    console.print(table)
    if votes.agreement:
        console.print(f"They agree with Krippendorff's alpha {votes.agreement.alpha}.")
    console.print(f"{len(votes.preferences)} preferences are in {output}.")
    console.print(f"Next: probe fit --config FILE --data.init_args.test_preferences {output}")
    return 0
