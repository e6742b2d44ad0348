"""Parts of what scores are judged by: a pooled figure can be an author detector or a ruler, so the same is told within each.

Rated texts are told apart by who wrote them, comparisons by whose texts were compared and by which of the two was longer.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from probe.data.reading import Row, pairs
from probe.metrics.metric import Metric, Over, Scored, metric_named
from probe.metrics.ranks import Floats

LONGER, SHORTER = "the longer one preferred", "the shorter one preferred"


def strata(rows: Sequence[Row], over: Mapping[Over, Scored], lengths: Floats) -> dict[str, tuple[Metric, Scored]]:
    """Part -> the metric that is told of it, and what is in it; nothing where there is but one part.

    Args:
        rows: N rows.
        over: What they have for metrics to go over.
        lengths: `[N]` token counts.
    """
    parts: dict[str, tuple[Metric, Scored]] = {}
    if "rated" in over:
        parts |= _parts("spearman", over["rated"], [rows[i].source for i in over["rated"].rows])
    if "preferences" in over:
        compared = over["preferences"]
        other = dict(pairs(rows).tolist())
        both = [(first, other[first]) for first in compared.rows.tolist()]
        parts |= _parts("preference_accuracy", compared, [_sources(rows[i], rows[j]) for i, j in both])
        ahead = [float(np.sign((lengths[i] - lengths[j]) * (rows[i].truth - rows[j].truth))) for i, j in both]
        told = {1.0: LONGER, -1.0: SHORTER}
        parts |= _parts("preference_accuracy", compared, [told.get(sign) for sign in ahead])
    return parts


def _parts(metric: str, judged: Scored, names: Sequence[str | None]) -> dict[str, tuple[Metric, Scored]]:
    of_item = np.array([name or "" for name in names])
    known = sorted({name for name in names if name})
    return {name: (metric_named(metric), judged[of_item == name]) for name in known} if len(known) > 1 else {}


def _sources(one: Row, other: Row) -> str | None:
    return " v. ".join(sorted((one.source, other.source))) if one.source and other.source else None
