"""Measures an embedded storyteller and writes its model card: python data/storyteller/measure.py data/storyteller/lm0

500 stories at temperature 0.8, half from creative and half from uncreative instructions, read by the oracle.
"""

import argparse
import json
import random
import statistics
from pathlib import Path
from typing import Any

from rich.progress import track

from probe.lm.frozen import FrozenLM
from probe.lm.spec import LMSpec
from probe.storyteller.storyteller import Oracle, grammar, sample_premise

CARD = """---
license: apache-2.0
library_name: transformers
---
# An embedded storyteller

A Llama-shaped model organism of `probe` ({parameters:,} parameters, {blocks} blocks of width {width}), trained from
scratch on the grammar of `probe/storyteller/storyteller.py` with the planted switch between plain and inventive sentences:

    {command}

It knows nothing but that grammar. It is for trying `probe` offline against a known truth, and for nothing else: no figure
measured on it says anything about natural language.

Measured by `python data/storyteller/measure.py {folder}`: {n} stories at temperature 0.8, instructions without a style
suffix, half of them creative.

| measure | value | wanted |
|---|---|---|
| well-formed sentences | {well_formed:.3f} | >= 0.95 |
| inventive share after creative instructions | {inventive_creative:.3f} | >= 0.75 |
| inventive share after uncreative instructions | {inventive_uncreative:.3f} | <= 0.25 |
| distinct stories | {distinct:.3f} | >= 0.95 |
| verbatim copies of training stories | {copies:.3f} | <= 0.01 |
| instruction's people, thing and town named | {named:.3f} | |
| stories that end by themselves within 400 tokens | {ended:.3f} | |
"""


def training_stories(args: dict[str, Any]) -> set[str]:
    """The stories of the training run, made again from its seed."""
    from train import sample_example

    rng = random.Random(args["seed"])
    return {sample_example(rng)[1] for _ in range(args["steps"] * args["batch"])}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--samples", type=int, default=500)
    args = parser.parse_args()
    lm, oracle, rng = FrozenLM.load(LMSpec(str(args.folder))), Oracle(), random.Random("measure")
    recipe = json.loads((args.folder / "recipe.json").read_text())
    sides = ("creative", "uncreative")
    asked = [
        (side, sample_premise(rng, rng.randrange(len(grammar()["premises"]))).instruction(side))
        for _ in range(args.samples // 2)
        for side in sides
    ]
    texts: list[str] = []
    for start in track(range(0, len(asked), 50), "writing stories"):
        texts += lm.generate([prompt for _, prompt in asked[start : start + 50]], 400, 0.8, range(start, start + 50))
    readings = [oracle.read(text, prompt) for text, (_, prompt) in zip(texts, asked, strict=True)]
    share = {
        side: statistics.fmean(r.inventive_share for r, (s, _) in zip(readings, asked, strict=True) if s == side)
        for side in sides
    }
    seen = training_stories(recipe)
    figures = {
        "n": len(texts),
        "well_formed": statistics.fmean(r.well_formed_share for r in readings),
        "inventive_creative": share["creative"],
        "inventive_uncreative": share["uncreative"],
        "distinct": len(set(texts)) / len(texts),
        "copies": sum(text in seen for text in texts) / len(texts),
        "named": statistics.fmean(r.named_share for r in readings),
        "ended": sum(text.endswith(".") for text in texts) / len(texts),
    }
    (args.folder / "measured.json").write_text(json.dumps(figures, indent=2) + "\n")
    command = " ".join(["python data/storyteller/train.py", *(f"--{k} {v}" for k, v in recipe.items())])
    shape = {
        "parameters": lm.model.num_parameters(),
        "blocks": lm.n_layers,
        "width": lm.hidden_size,
        "command": command,
        "folder": args.folder,
    }
    card = CARD.format(**figures, **shape)
    (args.folder / "README.md").write_text(card)
    print(card)


if __name__ == "__main__":
    main()
