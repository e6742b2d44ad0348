"""Which way of reading is best, by how much, and whether that is real."""

from probe.verbs.compare.command import run

__all__ = ["run"]
