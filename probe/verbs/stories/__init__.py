"""The paper's experiment: sets of stories, with controls and judges."""

from probe.verbs.stories.command import run

__all__ = ["run"]
