"""runs: which runs there are, what each read and what it found."""

from dataclasses import asdict
from json import dumps
from pathlib import Path

from probe.errors import ProbeError
from probe.logs import LOGS
from probe.options.types import FilePath


def run(logs: FilePath = str(LOGS), json: bool = False) -> int:
    """Lists the runs that found something, the newest first; folders without a result are counted.

    Args:
        logs: The folder of runs.
        json: A line of JSON for each run, for programs.
    """
    from rich.text import Text

    from probe.runs.summary import summaries
    from probe.show import figures_table
    from probe.shown.terminal import Terminal

    if not Path(logs).is_dir():
        raise ProbeError(f"--logs {logs}: expected a folder of runs, found none; `fit` or `try` makes one.")
    listed, without = summaries(Path(logs))
    if json:
        for one in listed:
            print(dumps(asdict(one)))
        return 0
    console = Terminal()
    rows: list[list[Text | str]] = []
    for one in listed:
        method = f"{one.method} ({one.concept})" if one.concept else one.method
        read = [
            Path(one.model).name,
            method,
            one.reading,
            one.chosen.replace("_", " ") if one.chosen != "score" else "",
        ]
        name = Text(str(Path(one.folder).relative_to(logs)), "bold").append(
            "\n" + ", ".join(filter(None, read)), "not bold"
        )
        rows.append([name, one.when[:-3].replace(" ", "\n"), one.headline.replace("] ", "]\n")])
    console.print(figures_table("", ["run", "when", "headline"], rows))
    console.print("Headline: Spearman of score and truth on test, unless it says otherwise, with its 95 % interval.")
    if without:
        console.print(f"Not listed: {without} without a result, such as a run that was killed.")
    if listed:
        console.print(f"Next: probe score FILE --run {Path(listed[0].folder).relative_to(logs)}")
    return 0
