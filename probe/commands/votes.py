"""votes: ballots that people have filled in, read back as preferences and win rates."""

from functools import partial
from pathlib import Path

from probe.errors import ProbeError


def run(files: list[str], key: str, output: str = "preferences.jsonl") -> int:
    """Reads filled-in ballots back: who won, how far people agree, and preferences that `fit` and `compare` take.

    Args:
        files: Filled-in copies of ballot.csv, one for each person.
        key: The ballot_key.jsonl that was written beside it.
        output: Where the preferences go, as JSONL for `test_preferences`.
    """
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from probe.ballot import read_votes
    from probe.files import write_json_lines
    from probe.pairwise import oriented, win_rates

    if not files:
        raise ProbeError("expected filled-in ballots, found none; name them: python -m probe votes ann.csv --key KEY.")
    votes = read_votes([Path(file) for file in files], Path(key))
    console = Console()
    say = partial(console.print, highlight=False, markup=False)
    order = ["steered", *dict.fromkeys(name for c in votes.comparisons for name in (c.set_a, c.set_b))]
    table = Table(box=SIMPLE_HEAD, title=f"{votes.n_votes} votes of {len(files)} people, {votes.n_missing} not cast")
    for name in ("", "won by the first, ties half [95 % interval]", "ties"):
        table.add_column(name)
    for (a, b), rate in win_rates(*oriented(votes.comparisons, list(votes.verdicts), order)).items():
        table.add_row(f"{a} v. {b}", escape(str(rate.rate)), str(rate.n_ties))
    console.print(table)
    if votes.agreement:
        console.print(f"They agree with Krippendorff's alpha {votes.agreement.alpha}.", highlight=False, markup=False)
    write_json_lines(Path(output), map(vars, votes.preferences))
    say(f"{len(votes.preferences)} preferences are in {output}.")
    console.print(
        f"Next: python -m probe fit --config FILE --data.init_args.test_preferences {output}", highlight=False
    )
    return 0
