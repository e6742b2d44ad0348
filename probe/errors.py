"""The one exception a user meets."""


class ProbeError(ValueError):
    """Says in one sentence what was expected, what was found and what to do."""
