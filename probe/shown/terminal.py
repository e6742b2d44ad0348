"""The terminal: where everything is printed, as it is said, without markup and without anything that could steer it."""

import os
import sys
from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from probe.shown.escapes import plain


class Terminal(Console):
    """A console on which text is text: brackets and colons mean nothing, escape sequences and unknown letters are replaced.

    What is to stand out is given a style, as `rich.text.Text` or by `style=`.

    Args:
        width: In columns, where the output is no terminal and COLUMNS says nothing.
    """

    def __init__(self, width: int = 120, **settings: Any) -> None:
        if not (settings.get("file") or sys.stdout).isatty() and "COLUMNS" not in os.environ:
            settings["width"] = width
        super().__init__(markup=False, emoji=False, highlight=False, **settings)

    def render_str(self, text: str, **settings: Any) -> Text:
        """Makes a text for a terminal of a string."""
        return super().render_str(plain(text), **settings)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Renders as rich does, and replaces what is not for this terminal: before lines are measured, and whatever is left."""
        if isinstance(renderable, Text):
            renderable = renderable.copy()
            renderable.plain = plain(renderable.plain)
        for text, style, control in super().render(renderable, options):
            shown = text if control else plain(text).encode(self.encoding, "replace").decode(self.encoding)
            yield Segment(shown, style, control)
