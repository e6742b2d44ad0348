"""Each token of a text, with its cosine with a direction: where in a text the concept is seen."""

import torch

from probe.data.reading import Passage
from probe.directions.direction import Direction
from probe.lm.frozen import FrozenLM
from probe.lm.hooks import record


def token_cosines(lm: FrozenLM, passage: Passage, direction: Direction) -> list[tuple[str, float]]:
    """The tokens of a passage's pooled span, each with its cosine with the direction at the chosen layer.

    Their mean is the passage's score by the direction.
    """
    assert direction.chosen is not None
    (encoded,) = lm.encoder.encode([passage])
    ids, states = torch.tensor([encoded.ids], device=lm.device), dict[int, torch.Tensor]()
    with torch.inference_mode(), record({direction.chosen: lm.blocks[direction.chosen]}, states.__setitem__):
        lm.decoder(input_ids=ids, use_cache=False)
    h = states[direction.chosen][0][list(encoded.pooled)].float().cpu()
    cosines = torch.nn.functional.normalize(h, dim=-1) @ direction.at(direction.chosen)
    pieces: list[tuple[str, float]] = []
    waiting: list[int] = []
    for token, cosine in zip((i for i, p in zip(encoded.ids, encoded.pooled, strict=True) if p), cosines, strict=True):
        waiting.append(token)
        text = str(lm.tokenizer.decode(waiting))
        if "\N{REPLACEMENT CHARACTER}" in text:  # a letter that several tokens make up
            text = ""
        else:
            waiting = []
        pieces.append((text, float(cosine)))
    return pieces
