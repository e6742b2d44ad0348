"""Judging a scorer on one split: every metric with its interval, beside the cheap rivals and the random directions."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from probe.data.splits import Split
from probe.directions.direction import random_directions
from probe.metrics.bootstrap import Estimate
from probe.metrics.evaluation import Evaluation, EvaluationSet, band_percentiles, random_band
from probe.metrics.people import People
from probe.metrics.ranks import Floats, to_numpy
from probe.scorers.bag_of_words import fit_bag_of_words, words_score
from probe.scorers.base import Scorer
from probe.scorers.surface_features import fit_surface, surface_score

N_RANDOM = 200


def _length(scorer: Scorer, split: Split) -> Floats:
    return to_numpy(scorer.features[split].n_tokens)


def _bag_of_words(scorer: Scorer, split: Split) -> Floats:
    return words_score(fit_bag_of_words(scorer.data.rows["train"], scorer.span), _texts(scorer, split))


def _surface(scorer: Scorer, split: Split) -> Floats:
    return surface_score(fit_surface(scorer.data.rows["train"], scorer.span), _texts(scorer, split))


def _texts(scorer: Scorer, split: Split) -> list[str]:
    return [row.passage(scorer.span).pooled for row in scorer.data.rows[split]]


CONTROLS: dict[str, Callable[[Scorer, Split], Floats]] = {
    "length": _length,
    "surface": _surface,
    "bag_of_words": _bag_of_words,
}
"""Scores `[N]` of a split by cheap rivals, which stand beside every scorer's."""


@dataclass(frozen=True)
class Judgement:
    """What a scorer is worth on one split."""

    evaluation: Evaluation
    """Of every column and control; of a band, of the chosen column and the controls."""
    chosen: Floats
    """`[N]` scores of the chosen column."""
    band: Floats
    """`[R]` Spearman of random directions that were given our choice of layer and sign."""
    margins: dict[str, Estimate] = field(default_factory=dict)
    """Control -> Spearman of the chosen column less the control's; on test only."""
    people: People | None = None

    @property
    def band_95(self) -> tuple[float, float]:
        """The 5th and the 95th percentile of the band."""
        low, _, high = band_percentiles(self.band)
        return float(low), float(high)


class Judge:
    """Judges a scorer after each evaluation; what does not change with the epoch is computed once."""

    def __init__(self) -> None:
        self.judgements: dict[Literal["validation", "test"], Judgement] = {}
        self._controls: dict[Split, dict[str, Floats]] = {}
        self._bands: dict[Split, Floats] = {}

    def judge(self, scorer: Scorer, split: Literal["validation", "test"]) -> Judgement:
        """Judges the scores that the scorer has of a split."""
        if split not in self._controls:
            self._controls[split] = {name: control(scorer, split) for name, control in CONTROLS.items()}
            self._bands[split] = _band(scorer, split)
        rivals = self._controls[split]
        judge, scores = EvaluationSet(scorer.data.rows[split]), scorer.scored[split]
        chosen = scores[:, scorer.columns.index(scorer.chosen)]
        shown = {scorer.chosen: chosen} if scorer.kind == "band" else dict(zip(scorer.columns, scores.T, strict=True))
        evaluation = judge.evaluate(shown | rivals, to_numpy(scorer.features[split].n_tokens), progress=True)
        margins: dict[str, Estimate] = {}
        people = None
        if split == "test":
            margins = {name: judge.difference(chosen, rivals[name]) for name in CONTROLS}
            people = judge.people(chosen)
        self.judgements[split] = Judgement(evaluation, chosen, self._bands[split], margins, people)
        return self.judgements[split]


def _band(scorer: Scorer, split: Split) -> Floats:
    def spearman_of(split: Split) -> Floats:
        read = scorer.features[split]
        vectors = random_directions(N_RANDOM, read.layers, read.width, seed=0)
        return EvaluationSet(scorer.data.rows[split]).spearman(to_numpy(read.cosines(vectors)))

    chosen_on = spearman_of("validation")
    return random_band(chosen_on, chosen_on if split == "validation" else spearman_of(split))
