"""The command line: where rooms are wired together."""

from probe.cli.front import main

__all__ = ["main"]
