"""What a person brings: rows, how they are split by group, and what is wrong with them."""

from typing import Any


def __getattr__(name: str) -> Any:
    """`probe.data.ContrastData`, as saved configs name it; on first use, since it needs torch and rows do not."""
    if name == "ContrastData":
        from probe.data.splits import ContrastData

        return ContrastData
    if name == "RatedData":
        from probe.data.rated import RatedData

        return RatedData
    raise AttributeError(f"module 'probe.data' has no attribute {name!r}")
