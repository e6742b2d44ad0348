"""One LM's part of a comparison: read it once, fit what is not yet fitted, judge all contestants."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import Progress

from probe.activations import ActivationExtractor, ActivationStore
from probe.bootstrap import Estimate
from probe.crossfit import CrossFit
from probe.lm import FrozenLM
from probe.metrics import Floats, to_numpy
from probe.scorers import HasDirection
from probe.sheets import Sheet
from probe.spec import Contestant, LMSpec
from probe.standings import Geometry, Standing, geometry, layer_curves, roc, standings, transfer
from probe.tournament import Build, Fit, FitStore, Tournament


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


def compare_with(
    name: str,
    spec: LMSpec,
    crossfit: CrossFit,
    contestants: Mapping[str, Contestant],
    build: Build,
    reference: str,
    n_resamples: int,
    seed: int,
    cache_dir: Path,
    console: Console,
) -> LMResult:
    """Runs the tournament on one LM."""
    store = ActivationStore(cache_dir / "activations", lambda text: console.print(text, markup=False))
    extractor = ActivationExtractor(FrozenLM.load(spec), None, store)
    tournament = Tournament(extractor, crossfit, build, FitStore(cache_dir / "fits"), seed)
    console.print(f"{name}: reading {sum(len(t.rows) for t in crossfit.tests.values())} texts", highlight=False)
    crossed = [passage for part in crossfit.folds for passage in crossfit.crossed(part.index)]
    extractor([p for test in crossfit.tests.values() for p in test.passages] + crossed, progress=True)
    lengths = {test: to_numpy(extractor(t.passages).n_tokens) for test, t in crossfit.tests.items()}

    built = {n: build(c, spec, "response", {}) for n, c in contestants.items()}
    layered = [n for n, scorer in built.items() if scorer.kind == "layers"]
    plan = [(crossfit.main, n, part) for n in contestants for part in crossfit.folds]
    plan += [
        (crossfit.main, n, part) for n in layered if isinstance(built[n], HasDirection) for part in crossfit.halves
    ]
    plan += [(other, n, part) for other in list(crossfit.contrasts)[1:] for n in layered for part in crossfit.folds]
    done: dict[tuple[str, str], dict[str, list[Fit]]] = {}
    with Progress(console=console, disable=not console.is_terminal) as progress, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*is not applicable.*")  # the report says so
        task = progress.add_task(name, total=len(plan))
        for contrast, contestant, part in plan:
            progress.update(task, description=f"{name}: {contestant} on {contrast}, {part}")
            fit = tournament.fit(contestants[contestant], contrast, part)
            done.setdefault((contrast, part.kind), {}).setdefault(contestant, []).append(fit)
            progress.advance(task)
    console.print(
        f"{name}: {len(plan)} fits, {len(plan) - tournament.n_fitted} of them finished before", highlight=False
    )

    fits = done[crossfit.main, "fold"]
    judged = {n: f for n, f in fits.items() if f[0].facts["kind"] != "band"}
    sheet = Sheet(crossfit, crossfit.judged_on, judged, lengths[crossfit.judged_on])
    by_contrast = {contrast: done.get((contrast, "fold"), {}) for contrast in crossfit.contrasts}
    return LMResult(
        name,
        extractor.lm.fingerprint,
        len(plan),
        tournament.n_fitted,
        standings(name, crossfit, fits, lengths, reference, n_resamples),
        layer_curves(crossfit, fits, lengths, n_resamples),
        {n: roc(sheet, n) for n in judged if np.isfinite(sheet.scores[:, sheet.names.index(n)]).any()}
        if sheet.rated
        else {},
        transfer(crossfit, by_contrast, lengths, n_resamples),
        geometry(fits, done.get((crossfit.main, "half"), {})),
    )
