"""score: any texts, scored by what a run has learned."""

from probe.verbs.score.command import run

__all__ = ["run"]
