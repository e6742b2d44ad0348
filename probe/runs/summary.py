"""Which runs there are and what each found, told from small files alone: nothing heavy is imported."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from probe.errors import ProbeError
from probe.files import from_json
from probe.logs import newest_first

RESULTS = ("metrics.json", "try.json")
"""What `fit` and `try` leave when they have found something."""
OF_OTHERS = ("compare.json", "sweep.json", "stories.json", "scores*.jsonl")

USUAL = "Spearman, test"
"""The metric of a fit that was tested."""


@dataclass(frozen=True)
class Summary:
    """One run."""

    when: str
    """When its result was written, local time."""
    model: str
    method: str
    reading: str
    """Span and pooling."""
    concept: str
    chosen: str
    """The column that was chosen on validation."""
    metric: str
    """What the headline is."""
    value: float | None
    lower: float | None
    upper: float | None
    folder: str

    @property
    def headline(self) -> str:
        """The value with its interval, for a person, and of what it is where that is not what most runs have."""
        if self.value is None:
            return "-"
        interval = f" [{self.lower:.2f}, {self.upper:.2f}]" if self.lower is not None and self.upper is not None else ""
        return f"{self.value:.2f}{interval}" + (f" {self.metric}" if self.metric != USUAL else "")


def summary_of(folder: Path) -> Summary:
    """What a run's folder says.

    Raises:
        ProbeError: where it holds no result that can be read.
    """
    file = next((folder / name for name in RESULTS if (folder / name).is_file()), folder / RESULTS[0])
    try:
        metrics = from_json(file.read_text(encoding="utf-8"))
        card = (
            metrics if file.name == RESULTS[0] else from_json((folder / "direction/direction.json").read_text("utf-8"))
        )
        made, chosen = card["provenance"], str(card["chosen"])
        metric = _of_fit(metrics, chosen) if file.name == RESULTS[0] else _of_try(metrics, chosen)
        return Summary(
            when=datetime.fromtimestamp(file.stat().st_mtime).isoformat(" ", "seconds"),
            model=str(made.get("lm", "")),
            method=str(made.get("method", "")),
            reading=", ".join(str(made[name]) for name in ("span", "pooling") if name in made),
            concept=str(made.get("concept") or ""),
            chosen=chosen if file.name == RESULTS[0] else f"layer_{chosen}",
            folder=str(folder),
            **metric,
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, StopIteration) as error:
        raise ProbeError(f"{folder}: expected the result of a run in {file.name}, found none ({error}).") from error


def _of_fit(metrics: Mapping[str, Any], chosen: str) -> dict[str, Any]:
    split = next(split for split in ("test", "validation") if split in metrics["results"])
    of_chosen = next(r for r in metrics["results"][split] if (r["metric"], r["column"]) == ("spearman", chosen))
    return {"metric": f"Spearman, {split}"} | {name: of_chosen[name] for name in ("value", "lower", "upper")}


def _of_try(metrics: Mapping[str, Any], chosen: str) -> dict[str, Any]:
    share = metrics["held_out_accuracy"][chosen]
    return {"metric": f"of {metrics['held_out_tasks']} tasks told apart", "value": share, "lower": None, "upper": None}


def summaries(logs: Path) -> tuple[list[Summary], int]:
    """The runs under a folder, the newest first, and how many folders of runs hold no result."""
    listed, without = [], 0
    for file in newest_first(logs, *RESULTS):
        try:
            listed.append(summary_of(file.parent))
        except ProbeError:
            without += 1
    for folder in logs.rglob("version_*"):
        if folder.is_dir() and not any(path for name in (*RESULTS, *OF_OTHERS) for path in folder.glob(name)):
            without += 1
    return listed, without
