"""From score sheets to standings: differences to the reference, where scores come from, how directions lie to one another."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mode

import numpy as np
from sklearn.metrics import roc_curve

from probe.metrics.bootstrap import Estimate, group_bootstrap, within_folds
from probe.metrics.crossed import variance_sources
from probe.metrics.ranks import Floats, to_numpy
from probe.progress import track
from probe.verbs.compare.crossfit import CrossFit
from probe.verbs.compare.sheets import Sheet, band_estimates, only
from probe.verbs.compare.tournament import Fit

SOURCES = ("instruction", "text", "both", "pair", "rest")


def audit_instructions(crossfit: CrossFit, fits: Sequence[Fit], n_resamples: int) -> dict[str, Estimate]:
    """Where the variance of a contestant's scores comes from: the instruction or the text; empty without responses."""
    if "crossed" not in fits[0].tensors:
        return {}
    crossed = np.concatenate([to_numpy(fit.tensors["crossed"]) for fit in fits])
    by_fold = [
        [p.group for p in crossfit.contrasts[crossfit.main].pairs if crossfit.fold_of[p.group] == k]
        for k in range(len(fits))
    ]
    fold = np.repeat(np.arange(len(fits)), [len(in_fold) for in_fold in by_fold])
    statistic = within_folds(lambda rows, weights: variance_sources(crossed[rows], weights), fold)
    groups = [group for in_fold in by_fold for group in in_fold]
    estimates = group_bootstrap(statistic, groups, n_resamples, n_folds=len(fits))
    return dict(zip(SOURCES, estimates, strict=True))


@dataclass(frozen=True)
class Geometry:
    """How the directions of one LM lie to one another; contestants in the order of `names`."""

    names: tuple[str, ...]
    layers: tuple[int, ...]
    cosine: Floats
    """`[L, M, M]`, mean over the folds."""
    split_half: Floats
    """`[M, L]` of directions from two halves of the groups."""
    shift_share: dict[str, tuple[int, Floats]]
    """Contestant that changes the model -> the layer most folds chose, and the share `[M]` of its mean shift along each
    direction."""


def geometry(fits: Mapping[str, Sequence[Fit]], halves: Mapping[str, Sequence[Fit]]) -> Geometry | None:
    """Compares the directions of all contestants that have one at every layer; None where fewer than one has."""
    names = tuple(name for name, of_folds in fits.items() if "vectors" in of_folds[0].tensors and name in halves)
    if not names:
        return None
    layers = tuple(fits[names[0]][0].facts["layers"])
    names = tuple(name for name in names if tuple(fits[name][0].facts["layers"]) == layers)
    vectors = np.stack([[to_numpy(fit.tensors["vectors"]) for fit in fits[name]] for name in names])  # [M, folds, L, D]
    shifts = {
        name: of_folds
        for name, of_folds in fits.items()
        if all("shift" in fit.tensors and fit.facts["shift_layer"] in layers for fit in of_folds)
    }
    shares = {}
    for name, of_folds in shifts.items():
        # Layers may differ from fold to fold: each shift is compared at its own.
        squared = []
        for k, fit in enumerate(of_folds):
            shift = to_numpy(fit.tensors["shift"])
            squared.append(
                (vectors[:, k, layers.index(fit.facts["shift_layer"])] @ (shift / np.linalg.norm(shift))) ** 2
            )
        shares[name] = (mode([fit.facts["shift_layer"] for fit in of_folds]), np.mean(squared, axis=0))
    half = [[to_numpy(fit.tensors["vectors"]) for fit in halves[name]] for name in names]
    return Geometry(
        names,
        layers,
        np.einsum("mfld,nfld->lmn", vectors, vectors) / vectors.shape[1],
        np.stack([(one * other).sum(-1) for one, other in half]),
        shares,
    )


@dataclass(frozen=True)
class Standing:
    """What one contestant reached with one LM."""

    lm: str
    name: str
    note: str
    is_band: bool
    chosen: tuple[str, ...]
    """The column chosen in each fold."""
    layers: tuple[int, ...]
    """The layer of each, where a column is a layer."""
    span: str
    """Where it reads pairs."""
    settings: tuple[dict[str, object], ...]
    """What each fold took from the grid."""
    estimates: dict[str, dict[str, Estimate]]
    """Test set -> metric -> estimate; of a band, its median and its 5th and 95th percentile."""
    within: dict[str, dict[str, Estimate]]
    """Test set -> part of it -> the metric that is told of that; nothing of a band."""
    difference: Estimate | None
    """To the reference, in the metric that is compared; None for the reference and for a band."""
    p: float
    sources: dict[str, Estimate]
    """Where the variance of its scores comes from."""
    n_trainable: int
    fit_seconds: float
    """Mean over the folds."""
    texts_per_second: float
    position_bias: dict[str, float]


def standings(
    lm: str,
    crossfit: CrossFit,
    fits: Mapping[str, Sequence[Fit]],
    lengths: Mapping[str, Floats],
    reference: str,
    n_resamples: int,
) -> list[Standing]:
    """Judges all contestants of one LM on every test set, and against the reference on the one that they are compared on."""
    single = {name: found for name, found in fits.items() if found[0].facts["kind"] != "band"}
    sheets = {test: Sheet(crossfit, test, single, lengths[test]) for test in crossfit.tests}
    estimates = {test: sheet.estimates(n_resamples) for test, sheet in sheets.items()}
    within = {test: sheet.within(n_resamples) for test, sheet in sheets.items()}
    test = crossfit.judged_on
    differences = sheets[test].differences(crossfit.metric_of(test), reference, n_resamples)
    found = []
    for name, of_name in fits.items():
        is_band = name not in single
        difference, p = differences.get(name, (None, float("nan")))
        facts = [fit.facts for fit in of_name]
        found.append(
            Standing(
                lm=lm,
                name=name,
                note=facts[0]["note"],
                is_band=is_band,
                chosen=tuple(f["chosen"] for f in facts),
                layers=tuple(f["layers"][f["columns"].index(f["chosen"])] for f in facts if f["kind"] == "layers"),
                span=facts[0]["span"],
                settings=tuple(f["settings"] for f in facts),
                estimates={
                    test: band_estimates(crossfit, test, of_name, lengths[test])
                    if is_band
                    else {metric: by_name[name] for metric, by_name in estimates[test].items()}
                    for test in crossfit.tests
                },
                within={}
                if is_band
                else {test: {p: of[name] for p, of in parts.items()} for test, parts in within.items() if parts},
                difference=difference,
                p=p,
                sources={} if is_band else audit_instructions(crossfit, of_name, n_resamples),
                n_trainable=facts[0]["n_trainable"],
                fit_seconds=float(np.mean([f["fit_seconds"] for f in facts])),
                texts_per_second=facts[0]["texts_per_second"],
                position_bias=facts[0].get("position_bias", {}),
            )
        )
    return found


def layer_curves(
    crossfit: CrossFit, fits: Mapping[str, Sequence[Fit]], lengths: Mapping[str, Floats], n_resamples: int
) -> dict[str, dict[int, Estimate]]:
    """Contestant with layers -> layer -> the compared metric on the set that is compared on."""
    of_scorer, test = {}, crossfit.judged_on
    for name, of_name in track(fits.items(), "judging the layers of", len(fits), "contestants"):
        if of_name[0].facts["kind"] == "layers":
            layers = of_name[0].facts["layers"]
            by_layer = {str(k): [only(fit, i) for fit in of_name] for i, k in enumerate(layers)}
            metric = crossfit.metric_of(test)
            estimates = Sheet(crossfit, test, by_layer, lengths[test]).estimates(n_resamples, [metric])[metric]
            of_scorer[name] = dict(zip(layers, estimates.values(), strict=True))
    return of_scorer


def transfer(
    crossfit: CrossFit,
    fits: Mapping[str, Mapping[str, Sequence[Fit]]],
    lengths: Mapping[str, Floats],
    n_resamples: int,
) -> dict[str, dict[str, dict[str, Estimate]]]:
    """AUROC of what was fitted on one set and judged on another: contrast set -> test set -> contestant -> estimate.

    Also there no group is judged by a scorer that learned from it. Of compared stories it is the share of preferences.
    """
    table: dict[str, dict[str, dict[str, Estimate]]] = {}
    for contrast, by_name in fits.items():
        layered = {name: of_folds for name, of_folds in by_name.items() if of_folds[0].facts["kind"] == "layers"}
        for test in crossfit.tests if layered else ():
            sheet = Sheet(crossfit, test, layered, lengths[test])
            metric = "auroc" if "judged" in sheet.over else crossfit.metric_of(test)
            table.setdefault(contrast, {})[test] = sheet.estimates(n_resamples, [metric])[metric]
    return table


def roc(sheet: Sheet, name: str) -> tuple[Floats, Floats]:
    """False and true positive rate of the upper against the lower half of the truth, averaged over the folds."""
    judged = sheet.over["judged"]
    scores, fold = judged.scores[:, sheet.names.index(name)], sheet.fold[judged.rows]
    high, unequal = judged.truth > judged.middle, judged.truth != judged.middle
    grid = np.linspace(0, 1, 101)
    curves = []
    for k in np.unique(fold):
        rows = (fold == k) & unequal & np.isfinite(scores)
        if 0 < high[rows].sum() < rows.sum():
            false, true, _ = roc_curve(high[rows], scores[rows])
            curves.append(np.interp(grid, false, true))
            curves[-1][0] = 0.0  # of the rates at no false positive, the curve begins with the lowest
    return grid, np.mean(curves, axis=0) if curves else np.full_like(grid, np.nan)
