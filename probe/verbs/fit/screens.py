"""What a run shows on a terminal of 80 columns: the verdict, a short table, texts side by side, and what to do next."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from probe.metrics.evaluation import Evaluation
from probe.scorers.abilities import HasDirection
from probe.scorers.base import Scorer
from probe.scorers.judging import CONTROLS, Judge
from probe.scorers.lora_writer import LoRAWriter
from probe.show import line, side_by_side
from probe.shown.terminal import Terminal
from probe.steering.callback import SteeringCallback
from probe.steering.samples import said
from probe.verbs.fit.verdict import figures, verdict

COLUMNS = {
    "spearman": "Spearman",
    "spearman_within_groups": "in topics",
    "preference_accuracy": "preferences",
    "pair_accuracy": "pairs right",
    "pearson": "Pearson",
    "auroc": "AUROC",
}
"""Of these the first three that can be told have a column; whatever there is stands in metrics.csv."""
SHOWN_TEXTS = 3


def print_table(console: Terminal, scorer: Scorer, judge: Judge, split: str) -> None:
    """Prints the chosen column, its neighbours and the rivals on one split."""
    judgement = judge.judgements["validation" if split == "validation" else "test"]
    result = judgement.evaluation
    judged = (
        f"{result.n_stories} rated stories" if result.n_stories else f"{2 * result.n_pairs} texts of held-out pairs"
    )
    estimate = result.estimates["spearman"][scorer.chosen]
    few = f" (too few groups: {estimate.n_groups})" if estimate.too_few_groups else ""
    title = f"{type(scorer).__name__}, span {scorer.span}, on {split}: {judged}, 95 % intervals{few}"
    table = Table(box=SIMPLE_HEAD, title=title, title_justify="left", show_edge=False, padding=(0, 1, 0, 0))
    shown = [m for m in COLUMNS if m in result.told][:3] or ["spearman"]
    table.add_column("layer" if scorer.kind == "layers" else "")  # the one that may wrap: no figure is ever cut
    for name in (*(COLUMNS[m] for m in shown), "length"):
        table.add_column(name, no_wrap=True)
    rows, others = _rows(scorer, result)
    for name in rows:
        chosen = name == scorer.chosen
        label = name.removeprefix("layer_").replace("_", " ") + (" (chosen)" if chosen else "")
        cells = [line(result.estimates[m][name]) for m in shown]
        length = result.estimates["length"][name].value
        table.add_row(label, *cells, "-" if np.isnan(length) else f"{length:.2f}", style="bold" if chosen else None)
    if others:
        ends = [[result.estimates[m][name].value for name in others] for m in shown]
        told = (f"{min(values):.2f} to {max(values):.2f}" if np.isfinite(values).any() else "-" for values in ends)
        table.add_row(f"{len(others)} other{'s' * (len(others) > 1)}", *told, style="dim")
    low, high = judgement.band_95
    table.add_row("200 random", f"{low:.2f} to {high:.2f}", style="dim")
    console.print(table)


def _rows(scorer: Scorer, result: Evaluation) -> tuple[list[str], list[str]]:
    """Which columns have a row of their own, and which are summed up in one."""
    columns = list(result.estimates["spearman"])
    ours = [name for name in columns if name not in CONTROLS]
    at = ours.index(scorer.chosen)
    near = ours[max(at - 1, 0) : at + 2]
    return near + [name for name in columns if name in CONTROLS], [name for name in ours if name not in near]


def print_result(console: Terminal, scorer: Scorer, judge: Judge) -> None:
    """Prints the verdict of the test, the table, and what else its figures say."""
    console.print("", Text(verdict(scorer, judge.judgements["test"]), "bold"), "", sep="\n")
    print_table(console, scorer, judge, "test")
    console.print("", *figures(scorer, judge), sep="\n")


def print_end(console: Terminal, folder: Path, scorer: Scorer, steering: SteeringCallback | None) -> None:
    """Prints dull prompts with and without steering, what was read, where everything is, and what to do next."""
    if steering and steering.samples:
        _print_texts(console, steering)
    reads = scorer.extractor.reads
    console.print(f"\nThe LM read {reads.texts} texts ({reads.tokens} tokens) for this; the rest was remembered.")
    left = sorted(
        f"{path.name}/" if path.is_dir() else path.name for path in folder.iterdir() if "tfevents" not in path.name
    )
    console.print(f"Everything is in {folder}: {', '.join(left)}.")
    console.print(f"Next: tensorboard --logdir {folder.parent}")
    if isinstance(scorer, HasDirection):
        saved = folder / "direction"
        console.print(f'  or: probe generate "Write a story about a town." --direction {saved}', soft_wrap=True)
    if isinstance(scorer, LoRAWriter):
        saved = folder / "adapter"
        console.print(f"  or: probe stories --config configs/stories.yaml --adapter {saved}", soft_wrap=True)


def _print_texts(console: Terminal, steering: SteeringCallback) -> None:
    samples = {(s.prompt, s.strength): s for s in steering.samples}
    strength = steering.strengths[-1]
    console.print(
        f"\nPlain and steered by {strength:g} {steering.unit}; scored at layer {steering.layer} on a clean forward, along a "
        f"direction from other groups (cosine {steering.cosine:.2f} with what steers; near 1 they are one vector and prove "
        "nothing alone)."
    )
    for prompt in list(dict.fromkeys(s.prompt for s in steering.samples))[:SHOWN_TEXTS]:
        pair = [samples[prompt, 0.0], samples[prompt, strength]]
        names = []
        for name, sample in zip(("plain", "steered"), pair, strict=True):
            cost = "" if name == "plain" else f", extra NLL {sample.extra_nll:+.2f}"
            names.append(f"{name}: score {sample.score:.2f}{cost}{said(sample, steering.told_by)}")
        console.print("", side_by_side(prompt, names, whole_sentences([sample.text for sample in pair])), sep="\n")


def whole_sentences(texts: Sequence[str]) -> list[str]:
    """Each text up to its last full sentence, since the length limit cuts where it falls; as it is where it holds none."""
    ends = [max(text.rfind(mark) for mark in ('."', '!"', '?"', ".", "!", "?", "。", "！", "？")) for text in texts]
    return [
        text[: end + 1 + text[end + 1 :].startswith(('"', "”", "’", "'"))] if end > 0 else text
        for text, end in zip(texts, ends, strict=True)
    ]
