"""How a number, an interval and a colour look, wherever they are shown."""

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

from probe.files import atomic_write
from probe.metrics.bootstrap import Estimate

if TYPE_CHECKING:
    from lightning.pytorch.loggers import TensorBoardLogger
    from matplotlib.figure import Figure

# Okabe and Ito's palette.
BLUE, ORANGE, GREEN, PURPLE, GREY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#777777"
STEERED_LABELS = {
    "gain": "gain over unsteered texts",
    "score": "clean re-score (mean cosine)",
    "extra_nll": "extra NLL, clean model (nats per token)",
    "kl": "KL from clean model (nats per token)",
    "repetition": "share of 4-grams that repeat",
    "moved_wrong": "prompts moved the wrong way (share)",
    "self_bleu": "self-BLEU",
}


def label(measure: str) -> str:
    """A measure of steered texts on an axis; one that a witness names is called so."""
    return STEERED_LABELS.get(measure, measure.replace("_", " "))


FIGURES, DPI = "figures", 120
LONGEST_WORD = 12
"""Columns of a heading; a longer word is folded."""
DIGITS = {"score": 3, "extra_nll": 3, "kl": 3}
"""How many digits small measures need; two do for the others."""


def cell(estimate: Estimate, digits: int = 2) -> Text:
    """An estimate in a table: the value, and below it the interval."""
    if np.isnan(estimate.value):
        return Text("-")
    ends = "" if np.isnan(estimate.lower) else f"[{estimate.lower:.{digits}f}, {estimate.upper:.{digits}f}]"
    return Text(f"{estimate.value:.{digits}f}").append(f"\n{ends}" if ends else "", "dim")


def p_value(p: float) -> str:
    """How sure, in a table or a sentence: 0.012, < 0.001, or - where nothing was tested."""
    return "-" if np.isnan(p) else "< 0.001" if p < 0.001 else f"{p:.3f}"


def line(estimate: Estimate, digits: int = 2) -> str:
    """An estimate in one line of a table: 0.82 [0.79, 0.85]."""
    if np.isnan(estimate.value):
        return "-"
    ends = "" if np.isnan(estimate.lower) else f" [{estimate.lower:.{digits}f}, {estimate.upper:.{digits}f}]"
    return f"{estimate.value:.{digits}f}{ends}"


def side_by_side(title: str, names: Sequence[str], texts: Sequence[str]) -> Table:
    """A column for each text."""
    table = Table(box=SIMPLE_HEAD, title=title, title_justify="left", expand=True)
    for name in names:
        table.add_column(name, ratio=1, overflow="fold")
    table.add_row(*texts)
    return table


def figures_table(title: str, header: Sequence[str], rows: Sequence[Sequence[Text | str]], best: int = -1) -> Table:
    """A table of which no figure is ever cut: every column but the first is as wide as its figures, and names fold."""
    table = Table(box=SIMPLE_HEAD, title=title, title_justify="left", show_edge=False, padding=(0, 1, 0, 0))
    table.add_column(header[0], overflow="fold")
    for i, name in enumerate(header[1:], 1):
        lines = [line for row in rows for line in str(row[i]).splitlines()]
        word = max(map(cell_len, name.split()), default=0)
        table.add_column(name, width=max([min(word, LONGEST_WORD), *map(cell_len, lines)]), overflow="fold")
    for i, row in enumerate(rows):
        table.add_row(*row, style="bold" if i == best else None)
    return table


def draw(figure: "Figure", tag: str, folder: Path, boards: Iterable["TensorBoardLogger"], step: int = 0) -> None:
    """Renders a figure once, for TensorBoard and, for who has none, as `figures/TAG.png` in the run's folder."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.image import imsave

    figure.set_dpi(DPI)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()  # type: ignore[no-untyped-call]
    buffer = canvas.buffer_rgba()  # type: ignore[no-untyped-call]
    pixels = np.asarray(buffer)[..., :3].copy()  # [height, width, 3]
    for board in boards:
        board.experiment.add_image(tag, pixels, step, dataformats="HWC")
    (folder / FIGURES).mkdir(parents=True, exist_ok=True)
    name = re.sub(r"[^\w.-]+", "-", tag)
    atomic_write(folder / FIGURES / f"{name}.png", lambda path: imsave(path, pixels, format="png"))
