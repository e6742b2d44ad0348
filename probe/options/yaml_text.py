"""YAML that others wrote: what is too large, too deep or a bomb is refused before anything is built of it."""

import yaml

MAX_CHARACTERS = 100_000
MAX_DEPTH = 32
MAX_VALUES = 10_000
"""With every alias written out. The largest config of this project has some sixty values."""
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class TooMuch(yaml.YAMLError):
    """A document beyond the bounds."""


def bounded(text: str, level: int = 0) -> str:
    """The text itself, if what it says is small: its events are counted, and no alias is followed.

    A text inside of it may be read as YAML in its turn, so each of them is held to the same bounds.

    Args:
        text: YAML.
        level: In how many texts it stands.

    Raises:
        TooMuch: for a document beyond the bounds.
        yaml.YAMLError: for what is no YAML.
    """
    if len(text) > MAX_CHARACTERS:
        raise TooMuch(f"it has {len(text)} characters, more than {MAX_CHARACTERS}")
    if level > MAX_DEPTH:
        raise TooMuch(f"it nests more than {MAX_DEPTH} texts")
    counted: dict[str | None, tuple[int, int]] = {}
    open_values: list[tuple[str | None, int, int]] = [(None, 0, 0)]  # anchor, values so far, depth so far
    for event in yaml.parse(text, Loader=_LOADER):
        values = depth = 0
        if isinstance(event, yaml.CollectionStartEvent):
            open_values.append((event.anchor, 1, 1))
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, values, depth = open_values.pop()
            counted[anchor] = values, depth
        elif isinstance(event, yaml.ScalarEvent):
            values, depth = counted[event.anchor] = 1, 1
            _bounded_inside(event.value, text, level + 1)
        elif isinstance(event, yaml.AliasEvent):
            values, depth = counted.get(event.anchor, (MAX_VALUES, 1))  # not counted yet: it holds itself
        anchor, values_so_far, depth_so_far = open_values[-1]
        open_values[-1] = anchor, values_so_far + values, max(depth_so_far, 1 + depth)
        if len(open_values) + depth > MAX_DEPTH:
            raise TooMuch(f"it nests more than {MAX_DEPTH} levels")
        if open_values[-1][1] > MAX_VALUES:
            raise TooMuch(f"it holds more than {MAX_VALUES} values, once its aliases are written out")
    return text


def _bounded_inside(text: str, outer: str, level: int) -> None:
    if text == outer:
        return
    try:
        bounded(text, level)
    except TooMuch:
        raise
    except yaml.YAMLError:
        return  # an ordinary text
