"""The witness who sees the surface alone: what a gain must not come from, since no idea is in it."""

from collections.abc import Mapping, Sequence

import numpy as np

from probe.metrics.texts import SURFACE, surface_features
from probe.steering.witness import Exhibit


def surface(written: Sequence[Exhibit]) -> Mapping[str, Sequence[float]]:
    """The seven features of each text, and how far they are from those of the plain text of its prompt.

    The distance is the root mean square of seven differences, each in standard deviations over the plain texts; where all of
    those agree, as it is. It tells nothing of the concept, so it decides nothing.
    """
    features = np.array([surface_features(one.text) for one in written]).reshape(-1, len(SURFACE))
    plain = np.array([surface_features(one.plain or "") for one in written]).reshape(-1, len(SURFACE))
    known = np.array([one.plain is not None for one in written], dtype=bool)
    of_prompt = list({one.prompt: i for i, one in enumerate(written) if one.plain is not None}.values())
    spread = plain[of_prompt].std(0) if of_prompt else np.ones(len(SURFACE))
    apart = np.sqrt((((features - plain) / np.where(spread > 0, spread, 1)) ** 2).mean(1))
    named = dict(zip(SURFACE, features.T.tolist(), strict=True))
    return named | {"surface_distance": np.where(known, apart, np.nan).tolist()}
