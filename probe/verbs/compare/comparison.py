"""One LM's part of a comparison: read it once, fit what is not yet fitted, judge all contestants."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from probe.activations.extractor import ActivationExtractor
from probe.activations.store import ActivationStore
from probe.lm.frozen import FrozenLM
from probe.lm.spec import Contestant, LMSpec
from probe.metrics.bootstrap import Estimate
from probe.metrics.ranks import Floats, to_numpy
from probe.progress import track
from probe.scorers import HasDirection
from probe.shown.terminal import Terminal
from probe.verbs.compare.crossfit import CrossFit
from probe.verbs.compare.sheets import Sheet
from probe.verbs.compare.standings import Geometry, Standing, geometry, layer_curves, roc, standings, transfer
from probe.verbs.compare.tournament import Build, Fit, FitStore, Tournament


@dataclass(frozen=True)
class LMResult:
    """What the tournament found with one LM."""

    name: str
    fingerprint: str
    n_fits: int
    n_fitted: int
    """How many of the fits were done now; the others were finished before."""
    standings: list[Standing]
    curves: dict[str, dict[int, Estimate]]
    """Contestant with layers -> layer -> the compared metric."""
    rocs: dict[str, tuple[Floats, Floats]]
    transfer: dict[str, dict[str, dict[str, Estimate]]]
    geometry: Geometry | None


@dataclass(frozen=True)
class Comparison:
    """What is the same for every LM.

    Args:
        crossfit: What is learned from, what is judged by, and when.
        contestants: By name.
        build: Makes a scorer of one.
        reference: The contestant that the others are compared with.
        n_resamples: Of the group bootstrap.
        seed: Of the fits.
        cache_dir: Where activations and finished fits are remembered.
    """

    crossfit: CrossFit
    contestants: Mapping[str, Contestant]
    build: Build
    reference: str
    n_resamples: int
    seed: int
    cache_dir: Path


def compare_with(name: str, spec: LMSpec, all_of_it: Comparison, console: Terminal) -> LMResult:
    """Runs the tournament on one LM."""
    crossfit, contestants, build = all_of_it.crossfit, all_of_it.contestants, all_of_it.build
    cache_dir, n_resamples = all_of_it.cache_dir, all_of_it.n_resamples
    store = ActivationStore(cache_dir / "activations", console.print)
    extractor = ActivationExtractor(FrozenLM.load(spec), None, store)
    tournament = Tournament(extractor, crossfit, build, FitStore(cache_dir / "fits"), all_of_it.seed)
    console.print(f"{name}: reading {sum(len(t.rows) for t in crossfit.tests.values())} texts")
    crossed = [passage for part in crossfit.folds for passage in crossfit.crossed(part.index)]
    built = {n: build(c, spec, crossfit.span, {}) for n, c in contestants.items()}
    spans = dict.fromkeys([crossfit.span, *(scorer.span for scorer in built.values())])
    extractor(
        [p for test in crossfit.tests for span in spans for p in crossfit.passages(test, span)] + crossed, progress=True
    )
    lengths = {test: to_numpy(extractor(crossfit.passages(test, crossfit.span)).n_tokens) for test in crossfit.tests}

    layered = [n for n, scorer in built.items() if scorer.kind == "layers"]
    whole = [n for n in layered if contestants[n].examples is None]
    carried = [n for n in whole if contestants[n].contrast is None]
    own = {n: crossfit.contrast_of(c.contrast) for n, c in contestants.items()}
    plan = [(own[n], n, part) for n in contestants for part in crossfit.folds]
    plan += [(own[n], n, part) for n in whole if isinstance(built[n], HasDirection) for part in crossfit.halves]
    plan += [(other, n, part) for other in list(crossfit.contrasts)[1:] for n in carried for part in crossfit.folds]
    done: dict[tuple[str, str], dict[str, list[Fit]]] = {}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*is not applicable.*")  # the report says so
        for contrast, contestant, part in track(plan, "fitting", len(plan), "fits"):
            fit = tournament.fit(contestants[contestant], contrast, part)
            done.setdefault((contrast, part.kind), {}).setdefault(contestant, []).append(fit)
    console.print(f"{name}: {len(plan)} fits, {len(plan) - tournament.n_fitted} of them finished before")

    fits = {n: done[own[n], "fold"][n] for n in contestants}
    halves = {n: of[n] for n in contestants if n in (of := done.get((own[n], "half"), {}))}
    judged = {n: f for n, f in fits.items() if f[0].facts["kind"] != "band"}
    sheet = Sheet(crossfit, crossfit.judged_on, judged, lengths[crossfit.judged_on])
    by_contrast = {
        contrast: {n: f for n, f in done.get((contrast, "fold"), {}).items() if n in carried}
        for contrast in crossfit.contrasts
    }
    return LMResult(
        name,
        extractor.lm.fingerprint,
        len(plan),
        tournament.n_fitted,
        standings(name, crossfit, fits, lengths, all_of_it.reference, n_resamples),
        layer_curves(crossfit, fits, lengths, n_resamples),
        {n: roc(sheet, n) for n in judged if np.isfinite(sheet.scores[:, sheet.names.index(n)]).any()}
        if "judged" in sheet.over
        else {},
        transfer(crossfit, by_contrast, lengths, n_resamples),
        geometry(fits, halves),
    )
