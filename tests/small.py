"""Small data sets of the storyteller's language: few groups, short stories, made in a moment."""

import json
import random
from pathlib import Path

import pytest

from probe.cli import main
from probe.data.splits import ContrastData
from probe.directions.direction import Direction
from probe.storyteller.storyteller import sample_premise, sample_story


def write_sets(folder: Path, n_groups: int = 14) -> dict[str, str]:
    """Writes pairs, validation and test stories; the first 4 groups are validation, the next 4 test."""
    rng = random.Random(0)
    pairs, stories = [], {"validation_stories": [], "test_stories": []}
    for template in range(n_groups):
        for _ in range(2):
            premise = sample_premise(rng, template)
            pairs.append(
                {
                    "creative": premise.instruction("creative"),
                    "uncreative": premise.instruction("uncreative"),
                    "group": premise.group,
                    "response_creative": sample_story(rng, premise, 1.0, "A", 2).text,
                    "response_uncreative": sample_story(rng, premise, 0.0, "A", 2).text,
                }
            )
        held_out = "validation_stories" if template < 4 else "test_stories" if template < 8 else None
        for level in (0.0, 0.25, 0.5, 0.75, 1.0) if held_out else ():
            story = sample_story(rng, sample_premise(rng, template), level, "B", 3)
            stories[held_out].append({"text": story.text, "rating": story.inventive_share, "group": premise.group})
    paths = {}
    for name, rows in {"pairs": pairs, **stories}.items():
        paths[name] = str(folder / f"{name}.jsonl")
        Path(paths[name]).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return paths


def fitted(folder: Path, lm: Path, sets: dict[str, str], *more: str) -> Path:
    """The folder of a run of MeanDifference, made under `folder`."""
    words = ["fit", "--model", "MeanDifference", "--lm.model", str(lm), "--lm.device", "cpu", "--data", "ContrastData"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main([*words, *(f"--data.init_args.{k}={v}" for k, v in sets.items()), *more]) == 0
    return folder / "lightning_logs/probe/version_0"


def opened(folder: Path, files: dict[str, str]) -> tuple[Direction, ContrastData]:
    """The direction of the first fit in a folder, and the data that it was fitted on."""
    data = ContrastData(**files)
    data.setup("fit")
    return Direction.load(folder / "lightning_logs/probe/version_0/direction"), data
