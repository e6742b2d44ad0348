"""The paper's experiment: each set is what it says, the controls are matched, judges are asked once, people's votes come back."""

import csv
import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from chat_server import Server, kept
from lightning.pytorch.loggers import TensorBoardLogger
from safetensors.torch import load_file, save_file
from scipy import stats
from small import opened
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from probe.activations.extractor import ActivationExtractor
from probe.cli import main
from probe.data.rows import Preference, read_rows
from probe.directions.direction import Direction, Recommended
from probe.errors import ProbeError
from probe.lm.frozen import FrozenLM
from probe.metrics.bootstrap import Estimate
from probe.metrics.texts import distinct
from probe.steering.arms import Arm, write
from probe.steering.ground import Ground, unseen_ground
from probe.steering.measuring import SteeredText
from probe.steering.settings import Sampling
from probe.steering.witnesses.storyteller import Storyteller
from probe.verbs.stories import report as stories_report
from probe.verbs.stories import sets as stories
from probe.verbs.stories.report import StoriesReport
from probe.verbs.stories.sets import StorySets, matched, write_stories

ASK = "{prompt} Be wild."
Fitted = tuple[Path, dict[str, str]]
TINY = ("--steering.max_new_tokens=8", "--n_prompts=6")


@pytest.fixture
def ground(fitted: Fitted, tiny_lm: FrozenLM) -> Ground:
    direction, data = opened(*fitted)
    return unseen_ground(tiny_lm, direction, data, Sampling(10), (), 5)


def written(ground: Ground, **options: Any) -> StorySets:
    how = Recommended(options.get("layers", [1]), 3.0, "gap", "all")
    return write_stories(ground, how, ASK, 0, lambda _: None)


def test_every_set_is_what_it_says(ground: Ground) -> None:
    sets = written(ground, layers=[0, 2])
    texts = {name: [text.text for text in of_set] for name, of_set in sets.texts.items()}
    lm, prompts = ground.lm, list(ground.prompts)
    assert texts["uncreative"] == lm.generate(prompts, 10, 0.8, 0)
    assert texts["creative"] == lm.generate(list(ground.creative), 10, 0.8, 0)
    assert texts["asked"] == lm.generate([f"{prompt} Be wild." for prompt in prompts], 10, 0.8, 0)
    steering = Arm("x", ground.direction.deltas(3.0, "gap", [0, 2]))
    assert texts["steered"] == write(lm, [(prompt, steering) for prompt in prompts], ground.how)
    # Where plain texts first become as diverse as the steered ones, on a fine grid of temperatures.
    diversity = {t: distinct(lm.generate(prompts, 10, t, 0), 2) for t in np.linspace(0.8, 2, 25)}
    wanted = distinct(texts["steered"], 2)
    crossing = next((t for t, found in diversity.items() if found >= wanted), 2.0)
    temperature = float(sets.made["hot"].partition("temperature ")[2].partition(" ")[0])
    assert temperature == pytest.approx(crossing, abs=0.15)
    assert f"{wanted:.3f} of steered texts" in sets.made["hot"]
    for name, of_set in sets.texts.items():
        assert [text.prompt for text in of_set] == prompts
        assert {text.arm for text in of_set} == {name}
    assert set(sets.made) == set(sets.texts)


def test_random_directions_are_one_a_prompt_and_as_long_as_ours(
    ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Arm] = []
    texts = Ground.texts

    def spy(self: Ground, arms: Any, progress: bool = False) -> Any:
        seen.extend(arm for of_arm in arms if not isinstance(of_arm, Arm) for arm in of_arm)
        return texts(self, arms, progress)

    monkeypatch.setattr(Ground, "texts", spy)
    written(ground, layers=[0, 2])
    ours = ground.direction.deltas(3.0, "gap", [0, 2])
    assert len(seen) == len(ground.prompts)
    for layer in (0, 2):
        found = torch.stack([arm.vectors[layer] for arm in seen])
        torch.testing.assert_close(found.norm(dim=1), ours[layer].norm().expand(5), atol=1e-4, rtol=1e-4)
        cosines = torch.nn.functional.cosine_similarity(found[:, None], found[None], dim=-1)
        assert (cosines - torch.eye(5)).abs().max() < 0.9


def test_the_knob_is_where_a_rising_measure_reaches_its_target_or_the_nearer_end() -> None:
    asked = []

    def diversity(temperature: float) -> float:
        asked.append(temperature)
        return temperature**2

    assert matched(diversity, 2.0, 0.8, 2.0) == pytest.approx(2**0.5, abs=1.2 / 40)
    assert len(asked) < 12
    assert matched(diversity, 0.5, 0.8, 2.0) == 0.8  # no search where the plain texts are as diverse already
    assert matched(diversity, 9.0, 0.8, 2.0) == 2.0


def test_as_much_of_the_adapter_is_used_as_goes_as_far_as_steering(
    ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    of_steering = 0.36

    def texts(self: Ground, arms: list[Arm], progress: bool = False) -> list[list[SteeredText]]:
        return [
            [replace(text("x", p, 0.0), kl=of_steering if arm.vectors else arm.adapter**2) for p in self.prompts]
            for arm in arms
        ]

    monkeypatch.setattr(Ground, "texts", texts)
    arm, made = stories._writer(ground, Arm("steered", {1: torch.ones(32)}))
    assert arm.adapter == pytest.approx(0.6, abs=1 / 40)
    assert "0.3600 of steering" in made
    of_steering = 4.0
    arm, made = stories._writer(ground, Arm("steered", {1: torch.ones(32)}))
    assert arm.adapter == 1
    assert "KL is 1.0000 there, 4.0000 of steering" in made  # out of reach, and it says so


def text(arm: str, prompt: str, share: float) -> SteeredText:
    return SteeredText(prompt, arm, 0.0, f"{arm} {prompt} {share}", share, 0.0, 0.0, 0.0, 0, {"inventive_share": share})


def made_up(ground: Ground, shares: dict[str, float], noise: float = 0.1, n: int = 60) -> StorySets:
    """Sets of known means; the noise of a prompt is in all of them, and a half as large one in each alone."""
    rng = np.random.default_rng(0)
    prompts = [f"p{i}" for i in range(n)]
    ground = replace(
        ground, prompts=prompts, creative=prompts, groups=[f"g{i // 2}" for i in range(n)], witnesses=[Storyteller()]
    )
    common = rng.normal(0, noise, n)
    values = {name: share + common + rng.normal(0, noise / 2, n) for name, share in shares.items()}
    texts = {name: [text(name, p, float(x)) for p, x in zip(prompts, v, strict=True)] for name, v in values.items()}
    return StorySets(ground, texts, dict.fromkeys(shares, ""))


SHARES = {"uncreative": 0.2, "steered": 0.6, "creative": 0.8, "asked": 0.7, "random": 0.2, "hot": 0.59}


def test_steering_is_set_beside_every_control_prompt_by_prompt_over_groups_and_with_holms_correction(
    ground: Ground,
) -> None:
    sets = made_up(ground, SHARES | {"asked": 0.63, "random": 0.585, "hot": 0.595})
    found = sets.beyond_controls
    raw = {}
    for name, (difference, _) in found.items():
        pairs = zip(sets.texts["steered"], sets.texts[name], strict=True)
        of_group = (
            np.array([a.value("inventive_share") - b.value("inventive_share") for a, b in pairs]).reshape(30, 2).mean(1)
        )
        assert difference.value == pytest.approx(of_group.mean())
        assert (difference.n, difference.n_groups) == (60, 30)
        error = of_group.std(ddof=1) / np.sqrt(30)
        assert difference.upper - difference.lower == pytest.approx(2 * 2.045 * error, rel=0.15)
        raw[name] = 2 * stats.t.sf(abs(of_group.mean()) / error, 29)
    assert set(found) == {"asked", "random", "hot"}
    least, middle, largest = sorted(raw, key=lambda name: raw[name])
    assert 1e-3 < raw[least] < raw[middle] / 1.5 < raw[largest] / 2
    for name, factor in ((least, 3), (middle, 2), (largest, 1)):
        assert found[name][1] == pytest.approx(factor * raw[name], rel=0.2)
    assert sets.shares["steered"].value == pytest.approx(2 / 3, abs=0.05)
    assert sets.shares["steered"].n_groups == 30
    assert sets.gap.value == pytest.approx(0.6, abs=0.05)
    # The same texts are told apart from themselves by nothing.
    same = replace(sets, texts={**sets.texts, "hot": [replace(t, arm="hot") for t in sets.texts["steered"]]})
    assert same.beyond_controls["hot"][1] == 1


@pytest.mark.parametrize(
    ("lower", "p", "says"),
    [
        (0.01, 0.04, "exceed"),
        (0.01, 0.12, "are not told apart"),  # the interval knows nothing of the other comparisons
        (0.01, float("nan"), "exceed"),
        (-0.01, float("nan"), "are not told apart"),
    ],
)
def test_the_corrected_p_decides_where_there_is_one_and_else_the_interval(lower: float, p: float, says: str) -> None:
    assert stories_report._stand(Estimate(0.1, lower, 0.2, 60, 30), p).startswith(says)


def test_heat_is_that_of_plain_texts_as_diverse_as_the_steered_ones(
    ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hot(diversity_of_steered: float) -> float:
        monkeypatch.setattr(stories, "write", lambda _, asked, __: [asked[0][1].temperature or diversity_of_steered])
        monkeypatch.setattr(stories, "distinct", lambda texts, n: texts[0])
        arm, made = stories._hot(ground, Arm("steered", {1: torch.ones(32)}))
        assert f"{diversity_of_steered:.3f} of steered texts" in made
        assert arm.temperature is not None
        return arm.temperature

    assert hot(1.3) == pytest.approx(1.3, abs=1.2 / 40)
    assert hot(0.5) == 0.8
    assert hot(3.0) == 2.0


def test_the_verdict_says_no_more_than_the_corrected_p_and_tells_when_there_is_no_gap(
    ground: Ground, tmp_path: Path
) -> None:
    def verdict(shares: dict[str, float], n: int = 60) -> str:
        board = TensorBoardLogger(tmp_path, name="", default_hp_metric=False)
        Path(board.log_dir).mkdir(parents=True, exist_ok=True)
        return " ".join(StoriesReport(board, made_up(ground, shares, n=n)).verdict())

    said = verdict(SHARES)
    assert "fall behind those of `asked`" in said
    assert "exceed those of `random`" in said
    assert "not told apart from those of `hot`" in said
    assert "not told apart here" not in said
    assert "But creative and uncreative prompts are not told apart here" in verdict(SHARES | {"creative": 0.2})
    few = verdict(SHARES, n=20)
    assert "exceed those of `random`" in few
    assert "too few groups" in few
    assert "after Holm" not in few


def test_who_wins_is_told_by_each_measure_side_by_side(ground: Ground) -> None:
    sets = made_up(ground, SHARES)
    for comparison, winner in zip(sets.comparisons(), sets.told("score"), strict=True):
        a, b = (float(t.rpartition(" ")[2]) for t in (comparison.text_a, comparison.text_b))
        assert winner == ("a" if a > b else "b" if b > a else "tie")


def test_prompts_come_from_test_groups_alone_and_their_score_from_validation_groups(
    fitted: Fitted, tiny_lm: FrozenLM
) -> None:
    direction, data = opened(*fitted)
    found = unseen_ground(tiny_lm, direction, data, Sampling(4), (), 99)
    test = [row for row in data.rows["test"] if row.side]
    assert set(found.prompts) == {row.prompt for row in test if row.truth == 0}
    assert set(found.groups) == {row.group for row in test}
    rows = [row for row in data.rows["validation"] if row.side]
    h = ActivationExtractor(tiny_lm, [direction.chosen])([row.passage("response") for row in rows]).pooled("mean")[:, 0]
    y = torch.tensor([row.truth for row in rows])
    expected = torch.nn.functional.normalize(h[y == 1].mean(0) - h[y == 0].mean(0), dim=0)
    torch.testing.assert_close(found.other, expected, atol=1e-5, rtol=0)


def test_every_set_is_compared_with_the_uncreative_and_the_steered_one(ground: Ground) -> None:
    names = ("uncreative", "steered", "creative", "asked", "random", "hot")
    sets = made_up(ground, dict.fromkeys(names, 0.5))
    pairs = {(c.set_a, c.set_b) for c in sets.comparisons(3)}
    assert len(pairs) == 1 + 2 * 4
    assert all(b == "uncreative" or a == "steered" for a, b in pairs)
    assert len(sets.comparisons(3)) == 3 * 9
    assert len(sets.comparisons()) == 60 * 9
    assert all(c.text_a.startswith(f"{c.set_a} {c.prompt}") for c in sets.comparisons())


@pytest.fixture
def here(fitted: Fitted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A working folder with the direction of a fit; the words that name its data."""
    folder, files = fitted
    monkeypatch.chdir(tmp_path)
    shutil.copytree(folder / "lightning_logs/probe/version_0/direction", "lightning_logs/probe/version_0/direction")
    return [f"--data.{name}={path}" for name, path in files.items()]


def longer(question: str) -> str:
    """A judge that names the longer text, whichever is shown first."""
    one, other = (question.partition(f"=== Text {x} ===")[2].partition("=== End")[0].strip() for x in "AB")
    return "A" if len(one) > len(other) else "B" if len(other) > len(one) else "Neither."


def test_the_verb_leaves_tables_files_figures_and_win_rates_that_a_hand_count_confirms_and_asks_a_judge_once(
    here: list[str], server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    server.reply = longer
    judge = ["--endpoint.model=m", f"--endpoint.url={server.url}", "--n_judged=4", "--self_judge=true"]
    assert main(["stories", *here, *TINY, *judge, "--ask", ASK]) == 0
    said = " ".join(capsys.readouterr().out.split())
    for words in (
        "Verdict",
        "creative and uncreative prompts are not told apart here",
        "does not show",
        "cosine",
        "shown first",
        "Next:",
    ):
        assert words.lower() in said.lower()
    run = Path("lightning_logs/stories/version_0")
    report = json.loads((run / "stories.json").read_text())
    texts, scores = dict[str, list[str]](), dict[str, list[float]]()
    for line in (run / "texts.jsonl").read_text().splitlines():
        record = json.loads(line)
        texts.setdefault(record["arm"], []).append(record["text"].strip())
        scores.setdefault(record["arm"], []).append(record["score"])
    assert {len(of_set) for of_set in texts.values()} == {6}
    assert set(texts) == {"uncreative", "steered", "creative", "asked", "random", "hot"}
    rates = {(r["by"], r["first"], r["second"]): r for r in report["win_rates"]}
    for (by, first, second), rate in rates.items():
        if by == "score":
            told = [(a > b) + (a == b) / 2 for a, b in zip(scores[first], scores[second], strict=True)]
            assert rate["rate"]["value"] == pytest.approx(np.mean(told))
        if by != "m":
            continue
        lengths = [(len(a), len(b)) for a, b in zip(texts[first][:4], texts[second][:4], strict=True)]
        told = [a > b for a, b in lengths if a != b and a and b]
        assert rate["n_unread"] == 4 - len(told)
        assert rate["rate"]["value"] == (pytest.approx(np.mean(told)) if told else None)
    assert ("the model itself", "steered", "uncreative") in rates
    assert report["judges"]["the model itself"]["replies"] == report["judges"]["m"]["replies"]
    with (run / "stories.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["set"] for row in rows} == set(texts)
    assert {"score", "kl", "extra_nll", "distinct_2"} <= {row["measure"] for row in rows}
    tags = EventAccumulator(str(run), size_guidance={"tensors": 0}).Reload().Tags()
    assert {"stories/distributions", "stories/win_rates"} <= set(tags["images"])
    assert "stories/samples/text_summary" in tags["tensors"]
    assert set(server.asked.values()) == {1}
    assert main(["stories", *here, *TINY, *judge, "--ask", ASK]) == 0
    assert set(server.asked.values()) == {1}
    assert json.loads((run.parent / "version_1/stories.json").read_text())["win_rates"] == report["win_rates"]


def test_an_endpoint_that_does_not_answer_is_found_before_any_story_is_written(
    here: list[str], server: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    server.fail = lambda *_: 500
    monkeypatch.setattr(FrozenLM, "generate", lambda *_, **__: pytest.fail("a story was written"))
    judge = ["--endpoint.model=m", f"--endpoint.url={server.url}", "--endpoint.retries=0"]
    assert main(["stories", *here, *TINY, *judge]) == 2
    assert "no answer after 0 retries" in capsys.readouterr().err


def test_stories_are_kept_when_the_judge_gives_up_half_way(here: list[str], server: Server) -> None:
    server.fail = lambda question, _: 500 if "Text A" in question else 0
    judge = ["--endpoint.model=m", f"--endpoint.url={server.url}", "--endpoint.retries=0"]
    assert main(["stories", *here, *TINY, *judge]) == 2
    assert len(Path("lightning_logs/stories/version_0/texts.jsonl").read_text().splitlines()) == 6 * 6


def test_a_ballot_says_nothing_of_the_sets_and_its_votes_come_back_as_preferences(
    here: list[str], fitted: Fitted, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["stories", *here, *TINY, "--ballot=12"]) == 0
    run = Path("lightning_logs/stories/version_0")
    assert "keep it from them" in " ".join(capsys.readouterr().out.split())
    sheet = (run / "ballot.csv").read_text(encoding="utf-8-sig")
    assert not [name for name in ("steered", "uncreative", "random", "hot") if name in sheet]
    key = {k["id"]: k for k in map(json.loads, (run / "ballot_key.jsonl").read_text().splitlines())}
    with (run / "ballot.csv").open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["id"] for row in rows} == set(key)
    assert {name for k in key.values() for name in (k["set_a"], k["set_b"])} == {"uncreative", "creative", "steered"}
    for voter in ("ann", "bo"):  # both prefer what was steered
        with Path(f"{voter}.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            for row in rows:
                sides = {"steered": 1, "uncreative": -1}
                a, b = (sides.get(key[row["id"]][side], 0) for side in ("set_a", "set_b"))
                writer.writerow(row | {"preferred": "a" if a > b else "b" if b > a else "tie"})
    assert main(["votes", "ann.csv", "bo.csv", "--key", str(run / "ballot_key.jsonl")]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "alpha 1.00" in said
    assert "steered v. uncreative 1.00" in said
    preferences = read_rows("preferences.jsonl", Preference)
    assert len(preferences) == len(rows)
    assert {p.text_a for p in preferences} == {row["text_a"].lstrip("'") for row in rows}
    # What it says to do next can be done: the groups are test groups.
    config = ["--config", str(fitted[0] / "fit.yaml"), "--trainer.enable_progress_bar=false"]
    assert main(["fit", *config, "--data.init_args.test_preferences", "preferences.jsonl"]) == 0
    assert "preferences" in " ".join(capsys.readouterr().out.split())


def test_a_lora_writer_is_a_control_at_the_kl_of_steering_and_one_for_another_model_is_refused(
    here: list[str], fitted: Fitted, own_cache: Path, tiny_lm: FrozenLM, capsys: pytest.CaptureFixture[str]
) -> None:
    config = (fitted[0] / "fit.yaml").read_text().replace("MeanDifference", "LoRAWriter")
    Path("writer.yaml").write_text(config)
    fit = ["--model.init_args.lr=0.01", "--data.init_args.batch_size=8", "--trainer.enable_progress_bar=false"]
    assert main(["fit", "--config", "writer.yaml", *fit]) == 0
    assert "--adapter lightning_logs/probe/version_1/adapter" in " ".join(capsys.readouterr().out.split())
    adapter = Path("lightning_logs/probe/version_1/adapter")
    steer = ["--steering.strengths=[0.5]", "--direction=lightning_logs/probe/version_0/direction"]
    assert main(["stories", *here, *TINY, *steer, f"--adapter={adapter}"]) == 0
    report = json.loads(Path("lightning_logs/stories/version_0/stories.json").read_text())
    assert "writer" in report["steered_less_control"]
    # The adapter scores nothing and judges nothing: what is not written by it is the same without it.
    judge = ["--self_judge=true", "--n_judged=2"]
    assert main(["stories", *here, *TINY, *steer, *judge, f"--adapter={adapter}"]) == 0
    asked = kept(own_cache / "replies.db")
    assert main(["stories", *here, *TINY, *steer, *judge]) == 0
    with_it, without = (
        json.loads(Path(f"lightning_logs/stories/version_{i}/stories.json").read_text()) for i in (1, 2)
    )
    assert with_it["cosine_with_other_groups"] == without["cosine_with_other_groups"]
    for name, result in without["results"].items():
        assert with_it["results"][name]["score"] == pytest.approx(result["score"])
    assert kept(own_cache / "replies.db") == asked  # the judge's questions were all asked before
    for question in list(asked)[:3]:
        assert asked[question] == tiny_lm.generate([question], 16, 0.0, 0)[0]
    card = adapter / "adapter.json"
    made = card.read_text()
    for name, says in (
        ("lm_fingerprint", "made for other weights"),
        ("data_fingerprint", "it may have seen the prompts"),
        ("method", "it is a xLoRAWriter"),
    ):
        card.write_text(made.replace(f'"{name}": "', f'"{name}": "x'))
        capsys.readouterr()
        assert main(["stories", *here, *TINY, *steer, f"--adapter={adapter}"]) == 2
        assert says in " ".join(capsys.readouterr().err.split())
    card.write_text(made)
    weights = load_file(adapter / "adapter_model.safetensors")
    next(iter(weights.values()))[0, 0] = math.nan
    save_file(weights, adapter / "adapter_model.safetensors")
    assert main(["stories", *here, *TINY, *steer, f"--adapter={adapter}"]) == 2
    assert "holds something else than finite numbers" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--ask=Be wild."], "expected {prompt}"),
        (["--steering.layer=7"], "this direction holds layers [0, 1, 2], found 7"),
        (["--adapter=nowhere"], "--adapter nowhere: expected a LoRA writer"),
        (["--steering.strengths=[.nan]"], "--steering.strengths: expected Finite"),
        (["--steering.strength_unit=norm"], "expected a strength beside it"),
        (["--steering.temperature=-1"], "--steering.temperature: expected FiniteNonNegative"),
        (["--n_prompts=0"], "--n_prompts: expected PositiveInt"),
        (["--n_judged=0"], "--n_judged: expected PositiveInt"),
        (["--config=typo.yaml"], "found `steering.strenths`, which no verb knows"),
        (["--config=odd.yaml"], "expected `steering` to be a section"),
    ],
)
def test_what_cannot_work_is_refused_in_one_sentence_before_anything_is_written(
    here: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str], says: str
) -> None:
    Path("typo.yaml").write_text("steering: {strenths: [3.0], witness: none}\n")
    Path("odd.yaml").write_text("steering: strong\n")
    monkeypatch.setattr(FrozenLM, "generate", lambda *_, **__: pytest.fail("a story was written"))
    assert main(["stories", *here, *TINY, *words]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "error:" in line]
    assert says in line


@pytest.mark.parametrize(("asked", "tokens"), [([], "generated"), (["--steering.tokens=prompt"], "prompt")])
def test_the_tokens_are_steered_that_the_sweep_steered_unless_others_are_asked_for(
    here: list[str], asked: list[str], tokens: str
) -> None:
    folder = Path("lightning_logs/probe/version_0/direction")
    found = Direction.load(folder)
    recommended = {"layer": 1, "strength": 4.0, "strength_unit": "gap", "tokens": "generated"}
    replace(found, provenance=found.provenance | {"recommended": recommended}).save(folder)
    assert main(["stories", *here, *TINY, *asked]) == 0
    report = json.loads(Path("lightning_logs/stories/version_0/stories.json").read_text())
    assert report["sampling"]["tokens"] == tokens


def test_votes_without_a_ballot_are_refused(tmp_path: Path, monkeypatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["votes", "--key", "key.jsonl"]) == 2
    assert "expected filled-in ballots, found none" in capsys.readouterr().err


def test_held_out_groups_without_pairs_are_refused_in_one_sentence(fitted: Fitted, tiny_lm: FrozenLM) -> None:
    direction, data = opened(*fitted)
    data.rows["test"] = [row for row in data.rows["test"] if row.side is None]
    with pytest.raises(ProbeError, match="expected pairs in the test groups, found none"):
        unseen_ground(tiny_lm, direction, data, Sampling(4), (), 9)
