"""Which classes a config may name: our own, and those of a package that the person who types the command admits."""

import importlib
from collections.abc import Sequence

import jsonargparse

from probe.errors import ProbeError


def admit_classes(argv: Sequence[str]) -> list[str]:
    """Takes `--plugin PACKAGE` out of the command line and admits classes from there, beside our own.

    A config may name classes, so it could name subprocess.Popen: only the person who types the command admits packages.

    Raises:
        ProbeError: for a package that cannot be imported, or where no verb is left.
    """
    words: list[str] = []
    plugins: list[str] = []
    for word in argv:
        name, equals, value = word.partition("=")
        if words and words[-1] == "--plugin":
            words.pop()
            plugins.append(word)
        elif name == "--plugin" and equals:
            plugins.append(value)
        else:
            words.append(word)
    if not words:
        raise ProbeError("expected a verb beside --plugin, found none; `python -m probe` lists them.")
    for plugin in plugins:
        try:
            importlib.import_module(plugin)
        except ImportError as error:
            raise ProbeError(
                f"--plugin {plugin}: expected a package that can be imported, but {error}; run from its folder, or install it."
            ) from error
    admitted = ["probe", "lightning", "torch", *(plugin.split(".")[0] for plugin in plugins)]
    jsonargparse.set_parsing_settings(import_path_denylist=["*"], import_path_allowlist=admitted)
    return words
