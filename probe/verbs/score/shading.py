"""Each token of a text, shaded by its cosine with the direction: where in a text the concept is seen."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.text import Text

if TYPE_CHECKING:
    from probe.shown.terminal import Terminal

MORE, LESS = (213, 94, 0), (0, 114, 178)
"""Okabe and Ito's orange and blue."""


def shade(console: "Terminal", pieces: Sequence[tuple[str, float]], midpoint: float) -> None:
    """Prints a text, its tokens the more orange the higher they are above the midpoint, and the bluer the lower."""
    reach = max((abs(cosine - midpoint) for _, cosine in pieces), default=0) or 1
    shown = Text()
    for text, cosine in pieces:
        if console.is_terminal:
            shown.append(text, _style((cosine - midpoint) / reach))
        else:
            shown.append(f"{text}({cosine:+.2f})")
    console.print(shown)
    console.print(
        Text("  less ", _style(-1)).append(
            f" {midpoint - reach:+.2f} ... {midpoint:+.2f} ... {midpoint + reach:+.2f} ", "dim"
        )
        + Text(" more ", _style(1))
        + Text(
            "  cosine of each token with the direction; the middle is half-way between the two sides of the training",
            "dim",
        )
    )


def _style(value: float) -> str:
    """A background between white (0) and a colour (1 or -1), with letters that can be read on it."""
    red, green, blue = (round(255 + abs(value) * (part - 255)) for part in (MORE if value > 0 else LESS))
    return f"{'white' if abs(value) > 0.8 else 'black'} on rgb({red},{green},{blue})"
