"""Each token of a text, shaded by its cosine with the direction: where in a text the concept is seen."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.text import Text

if TYPE_CHECKING:
    from probe.data.reading import Passage
    from probe.directions.direction import Direction
    from probe.lm.frozen import FrozenLM
    from probe.shown.terminal import Terminal

MORE, LESS = (213, 94, 0), (0, 114, 178)
"""Okabe and Ito's orange and blue."""


def token_cosines(lm: "FrozenLM", passage: "Passage", direction: "Direction") -> list[tuple[str, float]]:
    """The tokens of a passage's pooled span, each with its cosine with the direction at the chosen layer.

    Their mean is the passage's score by the direction.
    """
    import torch

    from probe.lm.hooks import record

    assert direction.chosen is not None
    (encoded,) = lm.encoder.encode([passage])
    ids, states = torch.tensor([encoded.ids], device=lm.device), dict[int, torch.Tensor]()
    with torch.inference_mode(), record({direction.chosen: lm.blocks[direction.chosen]}, states.__setitem__):
        lm.decoder(input_ids=ids, use_cache=False)
    h = states[direction.chosen][0][list(encoded.pooled)].float().cpu()
    cosines = torch.nn.functional.normalize(h, dim=-1) @ direction.at(direction.chosen)
    pieces: list[tuple[str, float]] = []
    waiting: list[int] = []
    for token, cosine in zip((i for i, p in zip(encoded.ids, encoded.pooled, strict=True) if p), cosines, strict=True):
        waiting.append(token)
        text = str(lm.tokenizer.decode(waiting))
        if "\N{REPLACEMENT CHARACTER}" in text:  # a letter that several tokens make up
            text = ""
        else:
            waiting = []
        pieces.append((text, float(cosine)))
    return pieces


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
