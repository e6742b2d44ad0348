"""score: how much of the concept is in texts, by what a run has learned; chunk by chunk, so that there may be millions."""

import math
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from probe.data.rows import DEFAULT_PROMPT
from probe.errors import ProbeError
from probe.files import try_file
from probe.lm.spec import LMSpec
from probe.logs import DIRECTION, NEWEST
from probe.options.types import FilePath
from probe.verbs.score.scores import ScoreFile
from probe.verbs.score.texts import Given, Texts, from_stdin

if TYPE_CHECKING:
    from probe.runs.run import Run
    from probe.shown.terminal import Terminal

CHUNK = 128
"""Texts that are read together, and then written: what a kill can lose at most. How they are batched depends on it."""


def run(
    texts: list[str],
    run: str = NEWEST,
    output: FilePath | None = None,
    prompt: str = DEFAULT_PROMPT,
    tokens: bool = False,
    lm: LMSpec | None = None,
) -> int:
    """Scores texts with what a run has learned, each with its percentile among the texts that the run learned from.

    Rows of JSON lines and CSV say `text` (or `response`), and optionally the `prompt` that it answers; a row with a prompt alone
    is scored as an instruction, by a run that read instructions. The same command goes on where it was stopped.

    Args:
        texts: Files, folders, or - for the standard input.
        run: Whose scorer: newest, a run's folder, or a name such as probe/version_3.
        output: Where the scores go, .jsonl or .csv; all fields of a row are written beside them. Without it they are shown.
        prompt: What the texts answer, where a row does not say.
        tokens: Show each text with its tokens shaded by their cosine with the run's direction.
        lm: The model; by default the one that the run was made with.
    """
    if not texts:
        raise ProbeError("expected texts, found none; name a file, a folder, or - for the standard input.")
    if tokens and output:
        raise ProbeError("--tokens: expected no --output beside it, found one; it shows texts, on the terminal.")
    target = ScoreFile(try_file(output, "--output")) if output else None
    with tempfile.TemporaryDirectory() as folder:
        stdin = from_stdin(folder) if "-" in texts else None
        given = Texts([stdin if place == "-" and stdin else Path(place).expanduser() for place in texts], prompt, stdin)
        n = sum(1 for _ in given)  # finds every bad row before the model is loaded
        if not n:
            raise ProbeError(f"{', '.join(texts)}: expected texts, found none; give some.")

        from probe.runs.run import load
        from probe.shown.terminal import Terminal

        console, scorer = Terminal(), load(run, lm)
        if target:
            _into_file(scorer, given, n, target)
            console.print(f"{n:,} texts scored by {scorer.folder}; the scores are in {target.path}.")
        else:
            _onto_terminal(console, scorer, given, tokens)
        if why := scorer.no_percentile(scorer.passage(None, prompt) if _asks_alone(given) else None):
            console.print(f"There are no percentiles: {why}.")
    return 0


def _into_file(run: "Run", given: Iterable[Given], n: int, target: ScoreFile) -> None:
    """Scores what the file does not hold yet, once its last whole chunk was found to be this run's."""
    from probe.progress import working

    before: tuple[list[Given], list[float]] | None = None
    going_on = True
    with working("scoring", n, "texts") as advance:
        for chunk in _chunks(given):
            records = [one.record for one in chunk]
            if going_on and (old := target.recall(records)) is not None:
                before = chunk, old
                advance(len(chunk))
                continue
            if going_on:
                _check_same(run, before, target)
                going_on = False
            scores = _score(run, chunk)
            target.append(
                records, [(score, _percentile(run, one, score)) for one, score in zip(chunk, scores, strict=True)]
            )
            advance(len(chunk))
    if going_on:
        target.check_ends()
        _check_same(run, before, target)


def _check_same(run: "Run", before: tuple[Sequence[Given], Sequence[float]] | None, target: ScoreFile) -> None:
    if before is None:
        return
    for old, new in zip(before[1], _score(run, before[0]), strict=True):
        if not (math.isclose(old, new, rel_tol=1e-4, abs_tol=1e-6) or (math.isnan(old) and math.isnan(new))):
            raise target.refusal(f"scores of another run than {run.folder}")


def _onto_terminal(console: "Terminal", run: "Run", given: Iterable[Given], tokens: bool) -> None:
    shades = tokens and (run.folder / DIRECTION).is_file()
    if tokens and not shades:
        console.print(f"--tokens: {run.folder} left no direction, so there is nothing to shade tokens by.")
    header = "     score  percentile  text"
    for chunk in _chunks(given):
        scores = _score(run, chunk)
        console.print(header, style="bold", end="\n" if header else "")
        header = ""
        for one, score in zip(chunk, scores, strict=True):
            rank = _percentile(run, one, score)
            words = " ".join((one.text or one.prompt).split())
            line = f"{score:10.4f}  {'-' if math.isnan(rank) else f'{rank:.0f} %':>10}  {words}"
            console.print(line, no_wrap=True, overflow="ellipsis")
            if shades:
                _shade(console, run, one)


def _shade(console: "Terminal", run: "Run", one: Given) -> None:
    from probe.runs.cosines import token_cosines
    from probe.verbs.score.shading import shade

    direction = run.direction
    assert direction.chosen is not None
    midpoint = float(direction.score_midpoint[direction.layers.index(direction.chosen)])
    shade(console, token_cosines(run.lm, run.passage(one.text, one.prompt), direction), midpoint)


def _chunks(given: Iterable[Given]) -> Iterator[list[Given]]:
    rows = iter(given)
    while chunk := list(islice(rows, CHUNK)):
        yield chunk


def _score(run: "Run", chunk: Sequence[Given]) -> list[float]:
    try:
        return run.score([run.passage(one.text, one.prompt) for one in chunk])
    except ProbeError as error:
        places = " to ".join(dict.fromkeys((chunk[0].where, chunk[-1].where)))
        raise ProbeError(f"{places}: {error}") from error


def _percentile(run: "Run", one: Given, score: float) -> float:
    return run.percentile(score, run.passage(one.text, one.prompt))


def _asks_alone(given: Texts) -> bool:
    return next(iter(given)).text is None
