"""Sheets and standings: metrics are scikit-learn's and scipy's within each fold; sources of variance are told apart."""

from dataclasses import astuple

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score

from probe.data.rows import Preference, RatedText, TextPair
from probe.metrics.ranks import Floats
from probe.verbs.compare.crossfit import ContrastSet, CrossFit
from probe.verbs.compare.sheets import Sheet, band_estimates
from probe.verbs.compare.standings import (
    audit_instructions,
    geometry,
    layer_curves,
    roc,
    standings,
    transfer,
    variance_sources,
)
from probe.verbs.compare.tournament import Fit

RNG = np.random.default_rng(0)
COLUMNS = ["layer_0", "layer_1"]


@pytest.fixture(scope="module")
def crossfit() -> CrossFit:
    pairs = [TextPair(f"c{g}", f"u{g}", f"g{g}", "bold", "dull") for g in range(40) for _ in range(2)]
    stories = [RatedText("s", float(RNG.integers(5)), f"g{g}") for g in range(30) for _ in range(6)]
    votes = [Preference("x", "y", "abt"[g % 3].replace("t", "tie"), f"g{g}") for g in range(40)]  # type: ignore[arg-type]
    contrasts = {"pairs": ContrastSet(pairs, "response"), "prompts": ContrastSet(pairs, "prompt")}
    return CrossFit(contrasts, {"stories": stories}, {"votes": votes}, judged_on="stories")


def truth(crossfit: CrossFit, test: str) -> Floats:
    return np.array([row.truth for row in crossfit.tests[test].rows])


def made(crossfit: CrossFit, signal: float, seed: int, kind: str = "layers", **tensors: torch.Tensor) -> list[Fit]:
    """Fits whose scores follow the truth, with an offset and a scale of their own in every fold."""
    rng = np.random.default_rng(seed)
    noise = {test: rng.normal(size=(len(t.rows), 2)) for test, t in crossfit.tests.items()}
    fits = []
    for k in range(crossfit.n_folds):
        scores = {}
        for test in crossfit.tests:
            rows = crossfit.rows_in(test, k)
            clean = signal * truth(crossfit, test)[rows, None] + noise[test][rows]
            scores[f"scores/{test}"] = torch.as_tensor(20 * k + 10.0 ** (k - 2) * clean)
        n = len(crossfit.crossed(k)) // 4
        crossed = torch.as_tensor(rng.normal(size=(n, 2, 2)) + 3 * np.array([[0, 1], [0, 1]]))
        facts = {
            "columns": COLUMNS, "chosen": COLUMNS[k % 2], "kind": kind, "layers": [0, 1], "settings": {}, "note": "",
            "n_trainable": 7, "fit_seconds": 1.0, "texts_per_second": 2.0, "span": "response",
        }  # fmt: skip
        fits.append(Fit(scores | {"crossed": crossed} | tensors, facts))
    return fits


def sheet(crossfit: CrossFit, test: str, fits: dict[str, list[Fit]]) -> Sheet:
    return Sheet(crossfit, test, fits, np.arange(len(crossfit.tests[test].rows), dtype=np.float64))


def test_metrics_are_the_libraries_own_within_each_fold_and_averaged_by_rows(crossfit: CrossFit) -> None:
    fits = {"one": made(crossfit, 1.0, 1), "other": made(crossfit, 0.2, 2)}
    found = sheet(crossfit, "stories", fits).estimates(50)
    y, fold = truth(crossfit, "stories"), crossfit.fold("stories")
    for name, of_name in fits.items():
        rho, area = [], []
        for k, fit in enumerate(of_name):
            scores = fit.tensors["scores/stories"][:, k % 2].numpy()
            here = y[fold == k]
            rho.append(spearmanr(scores, here)[0])
            area.append(roc_auc_score(here[here != 2] > 2, scores[here != 2]))
        share = np.bincount(fold)
        assert found["spearman"][name].value == pytest.approx(np.average(rho, weights=share))
        unequal = np.array([(y[fold == k] != 2).sum() for k in range(5)])
        assert found["auroc"][name].value == pytest.approx(np.average(area, weights=share), abs=0.01)
        assert unequal.min() > 0
        assert found["spearman"][name].lower < found["spearman"][name].value < found["spearman"][name].upper


def test_pairs_are_won_by_their_creative_side_and_preferences_by_the_preferred_text(crossfit: CrossFit) -> None:
    perfect = made(crossfit, 1e9, 3)
    for test, metric, decided in (("pairs", "pair_accuracy", 80), ("votes", "preference_accuracy", 27)):
        found = sheet(crossfit, test, {"perfect": perfect}).estimates(20)[metric]["perfect"]
        assert (found.value, found.n) == (1.0, decided)  # ties between people are left out
    opposite = sheet(crossfit, "votes", {"x": made(crossfit, -1e9, 3)}).estimates(20)["preference_accuracy"]["x"]
    assert opposite.value == 0.0


def test_a_judge_of_two_texts_side_by_side_is_read_by_what_it_prefers(crossfit: CrossFit) -> None:
    fits = made(crossfit, -1e9, 4)  # alone, it would get every comparison wrong
    for test, metric in (("pairs", "pair_accuracy"), ("votes", "preference_accuracy")):
        won = np.sign(truth(crossfit, test)[::2] - truth(crossfit, test)[1::2])
        for k, fit in enumerate(fits):
            fit.tensors[f"preferred/{test}"] = torch.as_tensor(won[crossfit.fold(test)[::2] == k])
        assert sheet(crossfit, test, {"judge": fits}).estimates(20)[metric]["judge"].value == 1.0


def test_a_contestant_without_numbers_has_none_and_spoils_no_other(crossfit: CrossFit) -> None:
    silent = [
        Fit({k: torch.full_like(v, torch.nan) for k, v in f.tensors.items()}, f.facts) for f in made(crossfit, 1, 5)
    ]
    fits = {"good": made(crossfit, 1.0, 1), "silent": silent}
    together, alone = (sheet(crossfit, "stories", f).estimates(30)["spearman"] for f in (fits, {"good": fits["good"]}))
    assert np.isnan(together["silent"].value)
    assert astuple(together["good"]) == pytest.approx(astuple(alone["good"]))


def test_a_fold_without_a_number_counts_for_neither_side_of_a_difference(crossfit: CrossFit) -> None:
    fits = {"reference": made(crossfit, 0.5, 1), "same": made(crossfit, 0.5, 1)}
    fits["same"][0].tensors["scores/stories"][:] = 7.0  # a constant ranks nothing
    difference, p = sheet(crossfit, "stories", fits).differences("spearman", "reference", 100)["same"]
    assert (difference.value, p) == (0.0, 1.0)
    fits["same"][1].tensors["scores/stories"][3, 1] = torch.nan  # and one missing number takes them all
    assert np.isnan(sheet(crossfit, "stories", fits).differences("spearman", "reference", 100)["same"][0].value)


def test_comparisons_that_are_all_ties_have_no_number(crossfit: CrossFit) -> None:
    ties = [Preference("x", "y", "tie", f"g{g}") for g in range(40)]
    undecided = CrossFit(crossfit.contrasts, {}, {"ties": ties})
    fits = [
        Fit(
            {f"scores/{t}": torch.zeros(len(undecided.rows_in(t, k)), 2) for t in undecided.tests},
            {"columns": COLUMNS, "chosen": "layer_0"},
        )
        for k in range(5)
    ]
    assert np.isnan(sheet(undecided, "ties", {"x": fits}).estimates(20)["preference_accuracy"]["x"].value)


def test_a_band_is_told_by_its_percentiles(crossfit: CrossFit) -> None:
    fits = made(crossfit, 1.0, 6, kind="band")
    found = band_estimates(crossfit, "stories", fits, np.arange(180.0))["spearman"]
    each = []
    for column in COLUMNS:
        chosen = [Fit(f.tensors, f.facts | {"chosen": column}) for f in fits]
        each.append(sheet(crossfit, "stories", {"x": chosen}).estimates(20)["spearman"]["x"].value)
    assert (found.lower, found.value, found.upper) == pytest.approx(tuple(np.percentile(each, [5, 50, 95])))


def lengths(crossfit: CrossFit) -> dict[str, Floats]:
    return {test: np.arange(len(t.rows), dtype=np.float64) for test, t in crossfit.tests.items()}


def test_the_better_of_two_contestants_is_told_apart_from_the_reference_and_an_equal_one_is_not(
    crossfit: CrossFit,
) -> None:
    fits = {"reference": made(crossfit, 0.5, 1), "better": made(crossfit, 3, 2), "equal": made(crossfit, 0.5, 3)}
    band = {"band": made(crossfit, 0.0, 4, kind="band")}
    found = {s.name: s for s in standings("lm", crossfit, fits | band, lengths(crossfit), "reference", 200)}
    assert found["better"].difference is not None
    assert found["better"].difference.value > 0.2
    assert found["better"].p < 0.001
    assert found["equal"].p > 0.01
    assert found["reference"].difference is None
    assert found["band"].difference is None
    assert found["band"].is_band


def test_the_curve_over_layers_reads_each_layer_and_the_chosen_one_is_on_it(crossfit: CrossFit) -> None:
    fits = {"x": made(crossfit, 1.0, 1)}
    curve = layer_curves(crossfit, fits, lengths(crossfit), 20)["x"]
    always_1 = [Fit(f.tensors, f.facts | {"chosen": "layer_1"}) for f in fits["x"]]
    assert curve[1] == sheet(crossfit, "stories", {"x": always_1}).estimates(20)["spearman"]["x"]
    assert set(curve) == {0, 1}


def test_the_roc_curve_encloses_the_auroc(crossfit: CrossFit) -> None:
    found = sheet(crossfit, "stories", {"x": made(crossfit, 1.0, 1)})
    false, true = roc(found, "x")
    assert (true[0], true[-1]) == (0, 1)
    assert np.trapezoid(true, false) == pytest.approx(found.estimates(20)["auroc"]["x"].value, abs=0.03)


def test_transfer_has_an_auroc_for_every_pair_of_sets_and_preferences_their_share(crossfit: CrossFit) -> None:
    fits = {
        "pairs": {"x": made(crossfit, 3.0, 1), "one": made(crossfit, 1.0, 2, kind="single")},
        "prompts": {"x": made(crossfit, -3.0, 3)},
    }
    table = transfer(crossfit, fits, lengths(crossfit), 20)
    assert {a: set(b) for a, b in table.items()} == {name: set(crossfit.tests) for name in fits}
    assert {name for by_test in table.values() for by_name in by_test.values() for name in by_name} == {"x"}
    for test in crossfit.tests:
        assert table["pairs"][test]["x"].value > 0.8 > 0.2 > table["prompts"][test]["x"].value


# Where the variance comes from


def shares(cells: Floats) -> Floats:
    return variance_sources(cells, np.ones((1, len(cells))))[0]


@pytest.mark.parametrize(("axis", "source"), [(1, 0), (2, 1)])
def test_a_score_of_the_instruction_or_of_the_text_alone_is_found_to_be_one(axis: int, source: int) -> None:
    cells = np.zeros((50, 2, 2))
    np.moveaxis(cells, axis, 0)[1] = 3.0
    assert shares(20 + cells) == pytest.approx(np.eye(5)[source])


def test_agreement_of_instruction_and_text_is_both_and_differences_between_pairs_are_the_pair() -> None:
    both = np.broadcast_to(np.array([[1.0, 0], [0, 1]]), (50, 2, 2))
    assert shares(both) == pytest.approx([0, 0, 1, 0, 0])
    between = np.broadcast_to(RNG.normal(size=(50, 1, 1)), (50, 2, 2))
    assert shares(between) == pytest.approx([0, 0, 0, 1, 0])


def test_the_shares_are_those_of_a_two_way_analysis_of_variance_also_with_repeated_pairs() -> None:
    cells = RNG.normal(size=(30, 2, 2)) + np.array([[0, 1], [2, 4]])
    times = RNG.integers(0, 3, 30)
    found = variance_sources(cells, times[None].astype(float))[0]
    x = cells.repeat(times, axis=0)
    total = ((x - x.mean()) ** 2).sum()
    instruction = 2 * len(x) * ((x.mean((0, 2)) - x.mean()) ** 2).sum()
    text = 2 * len(x) * ((x.mean((0, 1)) - x.mean()) ** 2).sum()
    within = ((x - x.mean(0)) ** 2).sum()
    pair = 4 * ((x.mean((1, 2)) - x.mean()) ** 2).sum()
    assert found == pytest.approx(
        np.array([instruction, text, total - within - instruction - text, pair, within - pair]) / total
    )


def test_the_audit_reads_every_pair_once_and_gives_intervals(crossfit: CrossFit) -> None:
    found = audit_instructions(crossfit, made(crossfit, 1.0, 1), 100)
    assert found["text"].value > 0.6 > 0.1 > found["instruction"].value
    assert found["text"].lower < found["text"].value < found["text"].upper
    assert (found["text"].n, found["text"].n_groups) == (80, 40)


# Directions


def test_geometry_compares_directions_layer_by_layer_and_says_how_much_of_a_shift_lies_along_each(
    crossfit: CrossFit,
) -> None:
    axes = torch.eye(3)
    one = torch.stack([axes[0], axes[1]])
    other = torch.stack([axes[0], axes[2]])
    fits = {
        "one": made(crossfit, 1, 1, vectors=one),
        "other": made(crossfit, 1, 2, vectors=other),
        "none": made(crossfit, 1, 3),
    }
    for fit in (shifted := made(crossfit, 1, 4, kind="single", shift=torch.tensor([3.0, 4.0, 0.0]))):
        fit.facts["shift_layer"] = 1
    halves = {
        "one": [Fit({"vectors": one}, {}), Fit({"vectors": -one}, {})],
        "other": [Fit({"vectors": other}, {})] * 2,
    }
    found = geometry(fits | {"lora": shifted}, halves)
    assert found is not None
    assert found.names == ("one", "other")
    np.testing.assert_allclose(found.cosine, [[[1, 1], [1, 1]], [[1, 0], [0, 1]]])
    np.testing.assert_allclose(found.split_half, [[-1, -1], [1, 1]])
    layer, share = found.shift_share["lora"]
    assert layer == 1
    np.testing.assert_allclose(share, [16 / 25, 0], atol=1e-9)
    assert geometry({"none": fits["none"]}, {}) is None
