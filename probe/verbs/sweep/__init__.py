"""At which layer and how strongly to steer."""

from probe.verbs.sweep.command import run

__all__ = ["run"]
