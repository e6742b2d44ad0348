"""serve: a run behind an OpenAI-compatible address, its strength in each request."""

from probe.verbs.serve.command import run

__all__ = ["run"]
