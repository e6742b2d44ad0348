"""Written texts and their numbers as an escaped Markdown table, for TensorBoard."""

from collections.abc import Sequence

from probe.shown.escapes import markdown
from probe.steering.measuring import SteeredText
from probe.steering.witness import SCORE


def sample_table(samples: Sequence[SteeredText], told: str = SCORE) -> str:
    """Markdown table of samples: a column per strength, and a row per prompt below the prompt's own.

    Model text is escaped and stays in its cell; a column of prompts would be so narrow that words break.
    """
    strengths = sorted({sample.strength for sample in samples})
    lines = [
        "| " + " | ".join(f"strength {s:g}" for s in strengths) + " |",
        "|" + "---|" * len(strengths),
    ]
    by_prompt: dict[str, dict[float, SteeredText]] = {}
    for sample in samples:
        by_prompt.setdefault(sample.prompt, {})[sample.strength] = sample
    for prompt, texts in by_prompt.items():
        lines.append(f"| **{markdown(prompt)}** |" + " |" * (len(strengths) - 1))
        lines.append("| " + " | ".join(sample_cell(texts[s], told) for s in strengths) + " |")
    return "\n".join(lines)


def sample_cell(sample: SteeredText, told: str = SCORE) -> str:
    """A text and its numbers in one cell of a Markdown table, with the measure that says what steering gained."""
    numbers = f"**score {sample.score:.3f}, extra NLL {sample.extra_nll:+.2f}{markdown(said(sample, told))}**"
    return f"{numbers}<br>{markdown(sample.text)}"


def said(sample: SteeredText, told: str) -> str:
    """What a witness tells of a text, to go on with behind its score; nothing where none does."""
    return "" if told == SCORE else f", {told.replace('_', ' ')} {sample.value(told):.2f}"
