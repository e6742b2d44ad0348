"""Ranks fresh stories, loose and settled, by the mean difference and by random directions: python data/storyteller/check_band.py

The settings of the committed stories were chosen with the band of random directions in view; these draws were not.
"""

import random

import numpy as np
import torch
from make_sets import N_TEST, N_VALIDATION

from probe.activations import ActivationExtractor
from probe.data import ContrastData
from probe.directions import cosine_scores, mean_difference, random_directions
from probe.evaluation import random_band
from probe.lm import FrozenLM, LMSpec
from probe.metrics import Floats, spearman, to_numpy
from probe.rows import Passage
from probe.storyteller import Family, grammar, sample_premise, sample_story


def main() -> None:
    extract = ActivationExtractor(FrozenLM.load(LMSpec("data/storyteller/lm0")))
    data = ContrastData(*(f"data/storyteller/{name}.jsonl" for name in ("pairs", "stories_a", "stories_b")))
    data.setup("fit")
    h = extract([row.passage("response") for row in data.rows["train"]]).mean
    label = torch.tensor([row.truth for row in data.rows["train"]])
    ours, _ = mean_difference(torch.stack([h[label == side].mean(0) for side in (0, 1)]))
    rivals = random_directions(200, extract.layers, h.shape[-1], seed=1)
    order = list(range(len(grammar()["premises"])))
    random.Random("split").shuffle(order)
    held_out: list[tuple[Family, list[int]]] = [
        ("A", order[:N_VALIDATION]),
        ("B", order[N_VALIDATION : N_VALIDATION + N_TEST]),
    ]
    for settled in (False, True):
        rho: dict[str, tuple[Floats, Floats]] = {}
        for family, templates in held_out:
            rng = random.Random(f"fresh {family} {settled}")
            passages, truth = [], []
            for template in sorted(templates) * 8:
                premise = sample_premise(rng, template)
                level = rng.betavariate(2, 2) if settled else rng.random()
                story = sample_story(rng, premise, level, family, rng.randint(8, 12), settled)
                passages.append(Passage(premise.instruction("neutral"), story.text))
                truth.append(story.inventive_share)
            unit_mean = extract(passages).unit_mean
            by_chance = to_numpy(torch.einsum("nld,rld->nlr", unit_mean, rivals)).reshape(len(truth), -1)
            rho[family] = (
                spearman(to_numpy(cosine_scores(unit_mean, ours)), np.array(truth)),
                spearman(by_chance, np.array(truth)).reshape(len(extract.layers), -1),
            )
        layer = int(rho["A"][0].argmax())
        band = np.percentile(random_band(rho["A"][1], rho["B"][1]), 95)
        name = "settled" if settled else "loose, uniform levels"
        print(f"{name}: mean difference {rho['B'][0][layer]:.2f} (layer {layer}), random 95th percentile {band:.2f}")


if __name__ == "__main__":
    main()
