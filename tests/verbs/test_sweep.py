"""The sweep searches on some prompts and judges on others; what it recommends is the largest gain that is affordable."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from small import opened

from probe.activations.extractor import ActivationExtractor
from probe.cli import main
from probe.directions.direction import Direction, random_directions
from probe.lm.frozen import FrozenLM
from probe.lm.spec import Budget
from probe.metrics.bootstrap import Estimate
from probe.shown.terminal import Terminal
from probe.steering.arms import write
from probe.steering.effects import share_of_gap
from probe.steering.ground import held_out
from probe.steering.measuring import SteeredText
from probe.steering.settings import Sampling
from probe.verbs.sweep.report import SweepReport
from probe.verbs.sweep.sweep import Cell, Setting, at_matched, pareto, recommend, sweep
from probe.verbs.sweep.trial import judge, search


def cell(layer: int, strength: float, gain: float, nll: float, affordable: bool = True) -> Cell:
    return Cell(
        Setting((layer,), strength), 3 * strength, strength / 10, {"extra_nll": nll, "kl": 2 * nll}, gain, affordable
    )


def test_the_largest_affordable_gain_is_recommended_and_else_the_cheapest_setting() -> None:
    cells = [cell(0, 1, 0.2, 0.1), cell(1, 1, 0.5, 0.3), cell(2, 1, 0.9, 2.0, False), cell(3, 1, math.nan, 0.0)]
    assert recommend(cells).setting.layers == (1,)
    assert recommend([cells[2], cell(4, 2, 0.1, 0.7, False)]).setting.layers == (4,)


def test_the_front_holds_what_nothing_beats_in_gain_at_no_more_cost() -> None:
    cells = [
        cell(0, 1, 0.2, 0.1),
        cell(1, 1, 0.1, 0.2),
        cell(2, 1, 0.5, 0.3),
        cell(3, 1, 0.5, 0.4),
        cell(4, 1, 0.9, 2.0),
    ]
    assert [c.setting.where for c in pareto(cells)] == ["0", "2", "4"]


def test_layers_are_matched_by_interpolation_and_left_out_where_they_do_not_reach() -> None:
    cells = [cell(0, s, 0.3 * s, 0.1 * s) for s in (1.0, 2.0, 4.0)] + [
        cell(1, s, 0.1 * s, 0.4 * s) for s in (1.0, 2.0, 4.0)
    ]
    found = at_matched(cells, "kl", 0.6)  # KL is twice the extra NLL: strength 3 at layer 0, below 1 at layer 1
    assert set(found) == {"0"}
    assert found["0"]["strength"] == pytest.approx(3)
    assert found["0"]["gain"] == pytest.approx(0.9)
    assert {k: m["strength"] for k, m in at_matched(cells, "strength_absolute", 6.0).items()} == {"0": 2, "1": 2}
    assert {k: m["strength"] for k, m in at_matched(cells, "strength_norm", 0.15).items()} == {"0": 1.5, "1": 1.5}


def test_a_setting_whose_texts_could_not_be_read_hides_no_other_from_the_front_nor_from_a_match() -> None:
    unread = cell(0, 1, float("nan"), 0.0), cell(1, 9, 0.9, float("nan"))
    read = [cell(0, s, s / 10, s / 10) for s in (2, 3, 4)]
    assert pareto([*unread, *read]) == read
    unmeasured = cell(0, 5, 0.5, float("nan"))
    assert at_matched([*read, unmeasured], "kl", 0.6)["0"]["strength"] == pytest.approx(3)


def texts(shares: np.ndarray) -> list[SteeredText]:
    return [SteeredText("p", "a", 1.0, "t", 0.0, 0.0, 0.0, 0.0, 0, {"inventive_share": float(x)}) for x in shares]


def test_the_share_of_the_gap_is_a_ratio_of_means_with_an_interval_over_groups() -> None:
    rng = np.random.default_rng(0)
    groups = [f"g{i // 5}" for i in range(200)]
    of_group = rng.normal(0, 0.1, 40).repeat(5)
    low, ours, high = (0.2 + of_group + x + rng.normal(0, 0.05, 200) for x in (0.0, 0.3, 0.6))
    found = share_of_gap(texts(low), texts(ours), texts(high), groups, "inventive_share")
    assert found.value == pytest.approx((ours.mean() - low.mean()) / (high.mean() - low.mean()))
    assert found.lower < 0.5 < found.upper
    assert found.upper - found.lower < 0.1
    assert (found.n, found.n_groups) == (200, 40)
    missing = low.copy()
    missing[3] = np.nan  # an empty text is left out of its mean
    kept = share_of_gap(texts(missing), texts(ours), texts(high), groups, "inventive_share").value
    rest = np.delete(low, 3).mean()
    assert kept == pytest.approx((ours.mean() - rest) / (high.mean() - rest))


def test_no_group_is_searched_and_judged_nor_scores_its_own_prompts_nor_trained_the_direction(
    fitted: tuple[Path, dict[str, str]], tiny_lm: FrozenLM
) -> None:
    direction, data = opened(*fitted)
    search, test = held_out(tiny_lm, direction, data, Sampling(4), (), 99, 99)
    group_of = {row.prompt: row.group for rows in data.rows.values() for row in rows if row.side}
    searched, judged = ({group_of[p] for p in ground.prompts} for ground in (search, test))
    assert not searched & judged
    assert not (searched | judged) & {pair.group for pair in data.examples}
    dull = {row.prompt for rows in data.rows.values() for row in rows if row.side == "uncreative"}
    assert {*search.prompts, *test.prompts} <= dull
    assert [group_of[p] for p in test.creative] == [group_of[p] for p in test.prompts] == list(test.groups)
    other_side = {(r.group, r.pair, r.truth): r.prompt for rows in data.rows.values() for r in rows if r.side}
    pairs = {(other_side[g, i, 0.0], other_side[g, i, 1.0]) for g, i, truth in other_side if truth}
    assert {*zip(test.prompts, test.creative, strict=True), *zip(search.prompts, search.creative, strict=True)} <= pairs
    # What scores the judged texts comes from the searched groups, and the other way round.
    rows = [r for r in data.rows["validation"] if r.side and r.group in searched]
    layer = direction.chosen
    assert layer is not None
    h = ActivationExtractor(tiny_lm, [layer])([r.passage("response") for r in rows]).pooled("mean")[:, 0]
    y = torch.tensor([r.truth for r in rows])
    expected = torch.nn.functional.normalize(h[y == 1].mean(0) - h[y == 0].mean(0), dim=0)
    torch.testing.assert_close(test.other, expected, atol=1e-5, rtol=0)


def test_a_setting_steers_by_its_share_of_the_gap_and_several_layers_share_it_out(
    fitted: tuple[Path, dict[str, str]], tiny_lm: FrozenLM
) -> None:
    direction, data = opened(*fitted)
    ground, _ = held_out(tiny_lm, direction, data, Sampling(8), (), 3, 3)
    settings = [Setting(layers, 2.0, "gap") for layers in ((0,), (2,), (0, 1, 2))]
    cells, plain = sweep(ground, direction, settings, Budget(extra_nll=1e9, repetition=1e9))
    for setting, found in zip(settings, cells, strict=True):
        arm, share = setting.arm(direction, "x"), 2 / len(setting.layers)
        rows = [direction.layers.index(k) for k in setting.layers]
        assert tuple(arm.vectors) == setting.layers
        for k, row in zip(setting.layers, rows, strict=True):
            torch.testing.assert_close(arm.vectors[k], share * direction.residual_gap[row] * direction.vectors[row])
        gaps, norms = direction.residual_gap[rows], direction.residual_norm[rows]
        assert found.strength_absolute == pytest.approx(share * float(gaps.sum()))
        assert found.strength_norm == pytest.approx(share * float((gaps / norms).sum()))
        assert found.gain == pytest.approx(found.means["score"] - plain["score"])
        assert found.affordable
    assert [cell.setting.where for cell in cells] == ["0", "2", "0-2"]
    arm = settings[2].arm(direction, "x")
    assert [t.text for t in ground.texts([arm])[0]] == write(tiny_lm, [(p, arm) for p in ground.prompts], ground.how)


def test_a_share_of_the_way_is_told_where_there_is_a_way_and_else_what_was_gained(
    fitted: tuple[Path, dict[str, str]], tiny_lm: FrozenLM, tmp_path: Path
) -> None:
    direction, data = opened(*fitted)
    ground, others = held_out(tiny_lm, direction, data, Sampling(4), (), 2, 4)
    searched = search(ground, [Setting((1,), 1.0, "gap")], Budget(), 1, 0, Terminal())
    outcome = judge(others, searched, Terminal())
    for lowest, said, unsaid in (
        (0.1, "of the way from", "exceed unsteered"),
        (-0.1, "exceed unsteered", "of the way from"),
    ):
        judged = replace(outcome, gap=Estimate(0.2, lowest, 0.3, 4, 4))
        words = " ".join(SweepReport(str(tmp_path), tmp_path, others, Budget(), searched, judged).verdict())
        assert said in words
        assert unsaid not in words
        reached = outcome.random_shares if lowest > 0 else outcome.random_gains
        assert f"own search: {reached[0]:.{2 if lowest > 0 else 3}f} to" in words


def test_the_verb_saves_the_setting_into_the_direction_and_generate_uses_it(
    fitted: tuple[Path, dict[str, str]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, files = fitted
    monkeypatch.chdir(folder)
    small = [
        "--n_prompts=2",
        "--n_test_prompts=4",
        "--n_random=2",
        "--steering.max_new_tokens=6",
        "--strengths=[0.5,1.0]",
    ]
    small.append("--together=true")
    assert main(["sweep", *(f"--data.{k}={v}" for k, v in files.items()), *small]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    for said in (
        "Verdict",
        "its texts exceed unsteered ones by",
        "creative and uncreative prompts are not told apart here",
        "random directions of equal norm",
        "cosine",
    ):
        assert said in shown
    report = json.loads((folder / "lightning_logs/sweep/version_0/sweep.json").read_text())
    assert [c["layer"] for c in report["cells"][::2]] == ["0", "1", "2", "0-2"]
    assert len(report["random_shares"]) == 2
    direction = Direction.load(folder / "lightning_logs/probe/version_0/direction")
    doses = direction.provenance["dose"]["of_layer"]
    lengths = [sum(doses[str(k)] for k in ks) * s / len(ks) for ks in ((0,), (1,), (2,), (0, 1, 2)) for s in (0.5, 1.0)]
    assert [c["strength_absolute"] for c in report["cells"]] == pytest.approx(lengths)
    null = random_directions(2, direction.layers, 32, 0)
    for vectors, found, share in zip(null, report["random"], report["random_shares"], strict=True):
        first, _, last = found["layer"].partition("-")
        rows = range(int(first), int(last or first) + 1)
        cosines = [float(vectors[k] @ direction.vectors[k]) for k in rows]
        assert found["cosine_with_ours"] == pytest.approx(np.mean(cosines), abs=1e-5)
        assert found["share_of_gap"] == share
    saved = Direction.load(folder / "lightning_logs/probe/version_0/direction").provenance["recommended"]
    assert {k: saved[k] for k in ("layer", "strength", "strength_unit")} == report["recommended"]
    assert main(["generate", "Write a story.", "--max_new_tokens", "4"]) == 0
    layers = saved["layer"] if isinstance(saved["layer"], list) else [saved["layer"]]
    assert f"layer{'s' * (len(layers) > 1)} {', '.join(map(str, layers))}" in " ".join(capsys.readouterr().out.split())

    # Other pairs than those that the direction learned from: its held-out prompts are not known.
    others = {k: v for k, v in files.items() if k == "pairs"}
    assert main(["sweep", *(f"--data.{k}={v}" for k, v in others.items()), *small]) == 2
    assert "fitted on other pairs" in " ".join(capsys.readouterr().err.split())
    assert main(["sweep", "--data.pairs", files["pairs"], "--strengths=[-1.0]"]) == 2
    assert "--strengths: expected FinitePositive" in " ".join(capsys.readouterr().err.split())
