"""Writes the ready-made JSONL sets beside this file: python data/storyteller/make_sets.py

Premise templates are the groups. Validation and test stories come from templates of their own, so ContrastData holds
their pairs out. Pairs and validation stories use frames of family A only, test stories frames of family B only.
"""

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from probe.storyteller.storyteller import Family, grammar, sample_premise, sample_story

FILLINGS = 5
N_VALIDATION, N_TEST = 24, 36
"""Premise templates held out; the rest is for learning."""


def pairs(rng: random.Random) -> Iterator[dict[str, Any]]:
    """Each template filled a few times, with a matching story of frames A on either side."""
    for template in range(len(grammar()["premises"])):
        for _ in range(FILLINGS):
            premise = sample_premise(rng, template)
            n_sentences = rng.randint(4, 7)
            creative = sample_story(rng, premise, rng.betavariate(9, 1), "A", n_sentences)
            uncreative = sample_story(rng, premise, rng.betavariate(1, 9), "A", n_sentences)
            yield {
                "creative": premise.instruction("creative"),
                "uncreative": premise.instruction("uncreative"),
                "group": premise.group,
                "response_creative": creative.text,
                "response_uncreative": uncreative.text,
            }


def stories(rng: random.Random, templates: list[int], per_template: int, family: Family) -> Iterator[dict[str, Any]]:
    """Stories of 8 to 12 sentences at every level under a neutral instruction; the rating is the realised share."""
    for template in templates:
        for _ in range(per_template):
            premise = sample_premise(rng, template)
            story = sample_story(rng, premise, rng.random(), family, rng.randint(8, 12))
            yield {
                "text": story.text,
                "rating": round(story.inventive_share, 4),
                "group": premise.group,
                "prompt": premise.instruction("neutral"),
                "level": round(story.level, 4),
                "factors": story.factors,
            }


def main() -> None:
    folder = Path(__file__).parent
    order = list(range(len(grammar()["premises"])))
    random.Random("split").shuffle(order)
    validation, test = order[:N_VALIDATION], order[N_VALIDATION : N_VALIDATION + N_TEST]
    sets = {
        "pairs": pairs(random.Random("pairs")),
        "stories_a": stories(random.Random("stories a"), sorted(validation), 12, "A"),
        "stories_b": stories(random.Random("stories b"), sorted(test), 10, "B"),
    }
    for name, rows in sets.items():
        lines = [json.dumps(row) + "\n" for row in rows]
        (folder / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
        print(f"{name}.jsonl: {len(lines)} rows")


if __name__ == "__main__":
    main()
