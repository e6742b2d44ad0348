"""Written texts and their numbers as an escaped Markdown table, for TensorBoard."""

import html
from collections.abc import Sequence

from probe.steering import SteeredText


def sample_table(samples: Sequence[SteeredText]) -> str:
    """Markdown table of samples, a row per prompt and a column per strength; model text is escaped and stays in its cell."""
    strengths = sorted({sample.strength for sample in samples})
    lines = [
        "| prompt | " + " | ".join(f"strength {s:g}" for s in strengths) + " |",
        "|" + "---|" * (len(strengths) + 1),
    ]
    by_prompt: dict[str, dict[float, SteeredText]] = {}
    for sample in samples:
        by_prompt.setdefault(sample.prompt, {})[sample.strength] = sample
    for prompt, texts in by_prompt.items():
        lines.append("| " + " | ".join([escape_cell(prompt), *(sample_cell(texts[s]) for s in strengths)]) + " |")
    return "\n".join(lines)


def sample_cell(sample: SteeredText) -> str:
    """A text and its numbers in one cell of a Markdown table."""
    share = "" if sample.inventive_share is None else f", inventive {sample.inventive_share:.2f}"
    return f"**score {sample.score:.3f}, extra NLL {sample.extra_nll:+.2f}{share}**<br>{escape_cell(sample.text)}"


def escape_cell(text: str) -> str:
    """Model text for a cell of a Markdown table: it can neither break out of it nor be markup."""
    return "<br>".join(html.escape(text).replace("|", "&#124;").splitlines())
