"""The tournament fits with Lightning what `fit` would, keeps each finished fit, and does none twice."""

import csv
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from probe.activations.extractor import ActivationExtractor
from probe.activations.store import ActivationStore
from probe.cli import main
from probe.data.reading import Reading, Span
from probe.data.rows import RatedText, TextPair, read_rows
from probe.directions.direction import mean_difference
from probe.errors import ProbeError
from probe.lm.frozen import FrozenLM
from probe.lm.spec import Contestant, LMSpec
from probe.scorers import LinearProbe, LoRAProbe, MeanDifference, Scorer
from probe.verbs.compare.code import code_of
from probe.verbs.compare.command import build
from probe.verbs.compare.crossfit import ContrastSet, CrossFit
from probe.verbs.compare.tournament import Fit, FitStore, Tournament
from probe.version import PACKAGE, closure

MEAN = Contestant("MeanDifference")


@pytest.fixture
def crossfit(small_sets: dict[str, str]) -> CrossFit:
    rated = {name: read_rows(small_sets[f"{name}_stories"], RatedText) for name in ("validation", "test")}
    pairs = read_rows(small_sets["pairs"], TextPair)
    return CrossFit({"pairs": ContrastSet(pairs, "response")}, rated, {}, "validation", "test", n_folds=3)


@pytest.fixture
def tournament(tiny_lm: FrozenLM, crossfit: CrossFit, tmp_path: Path) -> Tournament:
    extractor = ActivationExtractor(tiny_lm, None, ActivationStore(tmp_path / "activations"))
    return Tournament(extractor, crossfit, build, FitStore(tmp_path / "fits"))


def test_a_fit_is_lightnings_on_the_training_groups_alone(tournament: Tournament, crossfit: CrossFit) -> None:
    part = crossfit.folds[1]
    fit = tournament.fit(MEAN, "pairs", part)
    learned = crossfit.training("pairs", part, 0).rows["train"]
    h = tournament.extractor([row.passage("response") for row in learned]).pooled("mean").double()
    expected = mean_difference(torch.stack([h[1::2].mean(0), h[::2].mean(0)]))[0]
    torch.testing.assert_close(fit.tensors["vectors"], expected, atol=1e-5, rtol=0)
    for test in crossfit.tests:
        rows = crossfit.rows_in(test, part.index)
        passages = [crossfit.passages(test, "response")[row] for row in rows]
        unit_mean = tournament.extractor(passages).pooled("unit_mean")
        scores = torch.einsum("nld,ld->nl", unit_mean, fit.tensors["vectors"])
        torch.testing.assert_close(fit.tensors[f"scores/{test}"], scores, atol=1e-5, rtol=0)
    assert fit.facts["texts_per_second"] is None  # told by the first fold alone
    assert tournament.fit(MEAN, "pairs", crossfit.folds[0]).facts["texts_per_second"] > 0


def test_a_contestant_with_examples_learns_from_so_many_alone(tournament: Tournament, crossfit: CrossFit) -> None:
    fit = tournament.fit(replace(MEAN, examples=6), "pairs", crossfit.folds[1])
    learned = crossfit.training("pairs", crossfit.folds[1], 0, 6).rows["train"]
    assert len(learned) == 2 * 6
    h = tournament.extractor([row.passage("response") for row in learned]).pooled("mean").double()
    expected = mean_difference(torch.stack([h[1::2].mean(0), h[::2].mean(0)]))[0]
    torch.testing.assert_close(fit.tensors["vectors"], expected, atol=1e-5, rtol=0)


def test_a_finished_fit_is_taken_from_the_folder_and_equals_the_first(
    tournament: Tournament, crossfit: CrossFit
) -> None:
    first = tournament.fit(MEAN, "pairs", crossfit.folds[0])
    again = Tournament(tournament.extractor, crossfit, build, tournament.store)
    second = again.fit(MEAN, "pairs", crossfit.folds[0])
    assert (tournament.n_fitted, again.n_fitted) == (1, 0)
    assert second.facts == first.facts
    for name, tensor in first.tensors.items():
        assert torch.equal(second.tensors[name], tensor)


def test_whatever_a_fit_depends_on_makes_it_another_one(
    tournament: Tournament, crossfit: CrossFit, make_lm, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = crossfit.folds[0]

    def fitted(t: Tournament, contestant: Contestant = MEAN, which=part) -> int:
        before = t.n_fitted
        t.fit(contestant, "pairs", which)
        return t.n_fitted - before

    def other(crossfit: CrossFit = crossfit, extractor=tournament.extractor, seed: int = 0) -> Tournament:
        return Tournament(extractor, crossfit, build, tournament.store, seed)

    assert fitted(tournament) == 1
    assert fitted(other()) == 0
    assert fitted(other(), which=crossfit.folds[1]) == 1
    assert fitted(other(), which=crossfit.halves[0]) == 1
    assert fitted(other(), Contestant("MeanDifference", {"pooling": "last"})) == 1
    assert fitted(other(), replace(MEAN, epochs=2)) == 1
    assert fitted(other(seed=1)) == 1
    assert fitted(other(extractor=ActivationExtractor(make_lm(seed=7)))) == 1
    pairs = list(crossfit.contrasts["pairs"].pairs)
    changed = [replace(p, response_creative=f"{p.response_creative} Then it rained.") for p in pairs]
    assert fitted(other(CrossFit({"pairs": ContrastSet(changed, "response")}, {}, {}, n_folds=3))) == 1
    monkeypatch.setattr("probe.verbs.compare.tournament.code_of", lambda kind: ["edited"])
    assert fitted(other()) == 1  # the scorer's own code was edited


def test_the_code_of_a_fit_is_all_that_its_scorer_imports_and_no_other_scorer() -> None:
    names = {file.relative_to(PACKAGE).as_posix() for file in closure([PACKAGE / "scorers/mean_difference.py"])}
    assert {
        "lm/hooks.py",
        "activations/extractor.py",
        "data/splits.py",
        "metrics/ranks.py",
        "scorers/directional.py",
    } <= names
    assert not names & {"scorers/lora.py", "steering/arms.py", "cli/front.py"}
    assert set(code_of(MeanDifference)) ^ set(code_of(LoRAProbe))


@pytest.mark.parametrize("damage", [lambda b: b[:-100], lambda b: b[:-9] + bytes([b[-9] ^ 1]) + b[-8:], lambda b: b""])
def test_a_damaged_fit_is_done_again(
    tournament: Tournament, crossfit: CrossFit, damage: Callable[[bytes], bytes]
) -> None:
    first = tournament.fit(MEAN, "pairs", crossfit.folds[0])
    (file,) = tournament.store.folder.iterdir()
    file.write_bytes(damage(file.read_bytes()))
    second = tournament.fit(MEAN, "pairs", crossfit.folds[0])
    assert tournament.n_fitted == 2
    assert torch.equal(first.tensors["vectors"], second.tensors["vectors"])


class Planted(Scorer):
    """Scores by chance unless told the right argument; notes what it was built with."""

    built: list[float] = []

    def __init__(self, lm: LMSpec, span: Span = "response", right: float = 0.0) -> None:
        super().__init__(lm, span)
        self.right = right
        Planted.built.append(right)

    def build(self) -> None:
        self.w = torch.nn.Parameter(torch.zeros(()))

    def score(self, passages):
        truth = torch.tensor([float(p.pooled.count("a")) for p in passages])
        noise = torch.rand(len(passages), generator=torch.Generator().manual_seed(0))
        return (self.right * truth + (1 - self.right) * noise)[:, None]


def test_a_contestant_reads_where_its_own_reading_says_else_where_its_set_says(
    tournament: Tournament, crossfit: CrossFit
) -> None:
    pairs = crossfit.contrasts["pairs"].pairs
    both = CrossFit(
        {"pairs": ContrastSet(pairs, "response"), "prompts": ContrastSet(pairs, "prompt")}, {}, {}, n_folds=3
    )
    tournament.crossfit, part = both, both.folds[0]
    own, none = Contestant("MeanDifference", reading=Reading("reply", "last")), Contestant("MeanDifference")
    for contestant, contrast, span, pooling in (
        (own, "pairs", "reply", "last"),
        (own, "prompts", "reply", "last"),
        (none, "prompts", "prompt", "mean"),
    ):
        fit = tournament.fit(contestant, contrast, part)
        learned = both.training(contrast, part, 0).rows["train"]
        h = tournament.extractor([row.passage(span) for row in learned]).pooled(pooling).double()
        expected = mean_difference(torch.stack([h[1::2].mean(0), h[::2].mean(0)]))[0]
        torch.testing.assert_close(fit.tensors["vectors"], expected, atol=1e-5, rtol=0)
        for test, read in (("pairs", "reply" if contestant is own else "response"), ("prompts", "prompt")):
            rows = [both.tests[test].rows[i].passage(read) for i in both.rows_in(test, 0)]
            scores = torch.einsum("nld,ld->nl", tournament.extractor(rows).pooled("unit_mean"), fit.tensors["vectors"])
            torch.testing.assert_close(fit.tensors[f"scores/{test}"], scores, atol=1e-5, rtol=0)


def test_settings_are_chosen_from_the_grid_on_validation_inside_the_training_groups(
    tiny_lm: FrozenLM, tmp_path: Path
) -> None:
    # The truth is the number of a's on the groups that choose, and its opposite on those that are judged.
    pairs = [TextPair("c", "u", f"g{g}", "a" * (g + 1), "b") for g in range(12)]
    stories = [RatedText("a" * (i + 1) + "b", float(i), f"s{g}") for g in range(6) for i in range(5)]
    wrong = [RatedText("a" * (i + 1), float(-i), f"g{g}") for g in range(12) for i in range(5)]
    crossfit = CrossFit(
        {"pairs": ContrastSet(pairs, "response")}, {"chosen": stories, "judged": wrong}, {}, "chosen", n_folds=3
    )

    def build_planted(
        contestant: Contestant, lm: LMSpec, span: Span, settings: Mapping[str, Any], name: str = ""
    ) -> Scorer:
        return Planted(lm, span, **settings)

    tournament = Tournament(ActivationExtractor(tiny_lm), crossfit, build_planted, FitStore(tmp_path / "fits"))
    fit = tournament.fit(Contestant("Planted", grid={"right": [0.0, 1.0, 0.5]}), "pairs", crossfit.folds[0])
    assert fit.facts["settings"] == {"right": 1.0}


def test_a_fit_leaves_the_random_state_and_the_lm_alone(tournament: Tournament, crossfit: CrossFit) -> None:
    before = {name: value.clone() for name, value in tournament.lm.model.state_dict().items()}
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    tournament.fit(Contestant("LinearProbe"), "pairs", crossfit.folds[0])
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(value, before[name]) for name, value in tournament.lm.model.state_dict().items())


def test_a_scorer_is_built_as_fit_builds_it_and_a_wrong_argument_is_named() -> None:
    made = build(Contestant("LinearProbe", {"pooling": "last"}), LMSpec("x"), "prompt", {"C": 0.5})
    assert isinstance(made, LinearProbe)
    assert (made.lm_spec.model, made.span, made.pooling, made.C) == ("x", "prompt", "last", 0.5)
    assert isinstance(build(Contestant("probe.scorers.MeanDifference"), LMSpec(), "response", {}), MeanDifference)
    for wrong in (Contestant("Nothing"), Contestant("LinearProbe", {"D": 1}), Contestant("LinearProbe", {"C": "much"})):
        with pytest.raises(ProbeError, match=r"scorers\.mine: expected a scorer and its arguments"):
            build(wrong, LMSpec(), "response", {}, "mine")


# The verb


@pytest.fixture
def here(tmp_path: Path, tiny_lm_folder: Path, small_sets: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    files = "\n".join(f"  {name}: {path}" for name, path in small_sets.items() if name != "test_preferences")
    (tmp_path / "compare.yaml").write_text(
        f"lms:\n  - {{model: {tiny_lm_folder}, device: cpu}}\ndata:\n{files}\nfolds: 2\nresamples: 50\nscorers:\n"
        "  mean difference: {scorer: MeanDifference}\n  LDA: {scorer: LDA}\n  length: {scorer: Length}\n"
        "  random directions: {scorer: RandomDirections, args: {count: 20}}\n"
    )
    return tmp_path


COMPARE = ("compare", "--config", "compare.yaml")
N_FITS = 4 * 2 + 2 * 2 + 2 * 2
"""Four contestants over two folds; two with layers over two halves, and over the folds of the prompts."""


def test_compare_prints_and_writes_everything_and_again_fits_nothing(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(COMPARE) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert f"{N_FITS} fits, 0 of them finished before" in shown
    for said in (
        "Verdict",
        "random directions: 95 % of them",
        "variance due to instruction/text",
        "too few groups",
        "two halves",
    ):
        assert said in shown
    folder = here / "lightning_logs/compare/version_0"
    report = json.loads((folder / "compare.json").read_text())
    (lm,) = report["lms"].values()
    assert [s["name"] for s in lm["standings"]] == ["mean difference", "LDA", "length", "random directions"]
    assert all(s["p_holm"] is None for s in lm["standings"])  # too few groups for any p
    assert set(lm["transfer"]) == {"pairs", "pairs: prompts"}
    assert set(lm["transfer"]["pairs"]) == {"pairs", "pairs: prompts", "validation_stories", "test_stories"}
    assert set(lm["curves"]) == {"mean difference", "LDA"}
    assert len(lm["geometry"]["cosine"]) == len(lm["geometry"]["layers"]) == 3
    records = list(csv.DictReader((folder / "compare.csv").open()))
    assert {"lm", "scorer", "test", "metric", "value", "lower", "upper", "n", "n_groups"} == set(records[0])
    assert (folder / "compare.md").read_text().count("| LDA layer") == 1
    images = EventAccumulator(str(folder)).Reload().Tags()["images"]
    assert {tag.split("/")[1] for tag in images} == {
        "layers",
        "intervals",
        "instruction_or_text",
        "roc",
        "geometry",
        "transfer",
    }
    assert len(list(folder.rglob("*events*"))) == 1, "no contestant is a run of its own"
    assert len(list(folder.glob("figures/*.png"))) == len(images)

    assert main(COMPARE) == 0
    assert f"{N_FITS} fits, {N_FITS} of them finished before" in " ".join(capsys.readouterr().out.split())
    again = json.loads((here / "lightning_logs/compare/version_1/compare.json").read_text())
    (lm_again,) = again["lms"].values()
    assert (lm["fitted_now"], lm_again["fitted_now"]) == (N_FITS, 0)
    assert lm_again["standings"] == lm["standings"]


def test_readings_are_contestants_and_the_table_says_which(here: Path) -> None:
    mean, reading = "mean difference: {scorer: MeanDifference}", "reading: {span: reply, pooling: last}"
    assert main((*COMPARE, "--scorers", f"{{{mean}, where it begins: {{scorer: MeanDifference, {reading}}}}}")) == 0
    folder = here / "lightning_logs/compare/version_0"
    (lm,) = json.loads((folder / "compare.json").read_text())["lms"].values()
    assert {s["name"]: s["span"] for s in lm["standings"]} == {
        "mean difference": "response",
        "where it begins": "reply",
    }
    assert ", reply |" in (folder / "compare.md").read_text()


def test_contestants_that_learn_from_different_contrasts_meet_on_one_crossed_set(
    here: Path, small_sets: dict[str, str]
) -> None:
    pairs = [json.loads(line) for line in Path(small_sets["pairs"]).read_text().splitlines()]
    upside_down = [{"creative": p["uncreative"], "uncreative": p["creative"], "group": p["group"]} for p in pairs]
    Path("others.jsonl").write_text("".join(json.dumps(p) + "\n" for p in upside_down))
    cells = [{"idea": i, "style": s} for i in ("inventive", "ordinary") for s in ("plain", "ornate")]
    texts = [
        {"text": f"The lamp {i} {c['idea']} {c['style']}.", "group": f"topic {i}"} | c for i in range(6) for c in cells
    ]
    Path("crossed.jsonl").write_text("".join(json.dumps(t) + "\n" for t in texts))
    reading = "reading: {span: prompt, pooling: last}"
    scorers = ", ".join(
        f"{name}: {{scorer: MeanDifference, {reading}, contrast: {contrast}}}"
        for name, contrast in (("mean difference", "pairs"), ("other way up", "others"))
    )
    more = ("--data.test_stories=null", "--data.test_crossed=crossed.jsonl", "--data.transfer={others: others.jsonl}")
    assert main((*COMPARE, *more, "--scorers", f"{{{scorers}}}")) == 0
    folder = here / "lightning_logs/compare/version_0"
    (lm,) = json.loads((folder / "compare.json").read_text())["lms"].values()
    assert {s["name"] for s in lm["standings"]} == {"mean difference", "other way up"}
    assert not lm["transfer"]
    cosine = np.array(lm["geometry"]["cosine"])  # [L, 2, 2]: the same pairs, turned round
    assert cosine[:, 0, 1] == pytest.approx(-1, abs=1e-3)
    told = {s["name"]: s["estimates"]["crossed"]["idea_accuracy"]["value"] for s in lm["standings"]}
    assert 0 <= told["mean difference"] <= 1

    assert main((*COMPARE, *more, "--scorers", f"{{{scorers.replace('others', 'nowhere')}}}")) == 2


def test_people_judge_by_ratings_or_comparisons_and_each_part_of_them_for_itself(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sources, rng = ("human", "machine"), np.random.default_rng(0)
    rated = [
        {"text": f"The lamp {i} sang.", "rating": i % 5, "group": f"r{i // 2}", "source": sources[i % 2]}
        | {"raters": {"ann": i % 5, "bo": int(rng.integers(5))}}
        for i in range(40)
    ]
    votes = [
        {"text_a": f"The lamp sang {i}.", "text_b": "The lamp sat.", "preferred": "ab"[i % 2], "group": f"v{i}"}
        for i in range(20)
    ]
    for name, rows in {"rated": rated, "votes": votes}.items():
        Path(f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    scorers = "--scorers={mean difference: {scorer: MeanDifference}, length: {scorer: Length}}"
    assert main((*COMPARE, scorers, "--data.people={teachers: rated.jsonl, writers: votes.jsonl}")) == 0
    folder = here / "lightning_logs/compare/version_0"
    report = json.loads((folder / "compare.json").read_text())
    (lm,) = report["lms"].values()
    of = {s["name"]: s for s in lm["standings"]}
    assert of["length"]["estimates"]["writers"]["preference_accuracy"]["value"] == pytest.approx(0.5, abs=0.1)
    assert set(of["length"]["within"]["teachers"]) == set(sources)
    won = {part: estimate["value"] for part, estimate in of["length"]["within"]["writers"].items()}
    assert sorted(won.values()) == [0, 1]  # which way round length counts, it learns from the pairs
    assert report["agreement"]["teachers"]["n_raters"] == 2
    assert "nothing can be concluded here" in " ".join(capsys.readouterr().out.split())  # bo rated at random
    records = list(csv.DictReader((folder / "compare.csv").open()))
    assert {"within: human", "within: the longer one preferred"} <= {record["metric"] for record in records}
    assert "the longer one preferred | the shorter one preferred" in (folder / "compare.md").read_text()


def test_several_lms_preferences_and_further_sets_stand_in_one_report(
    here: Path, tiny_lm_folder: Path, small_sets: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    votes = [
        {"text_a": "The lamp sang.", "text_b": "The lamp sat.", "preferred": "ab"[i % 2], "group": f"v{i}"}
        for i in range(8)
    ]
    (here / "votes.jsonl").write_text("".join(json.dumps(vote) + "\n" for vote in votes))
    (here / "others.jsonl").write_text(Path(small_sets["pairs"]).read_text())
    lms = f"[{{model: {tiny_lm_folder}, device: cpu}}, {{model: {tiny_lm_folder}, device: cpu, system: Be brief.}}]"
    two = ("--lms", lms, "--scorers", "{mean difference: {scorer: MeanDifference}, length: {scorer: Length}}")
    more = ("--data.test_preferences", "votes.jsonl", "--data.transfer", "{others: others.jsonl}")
    assert main((*COMPARE, *two, *more)) == 0
    report = json.loads((here / "lightning_logs/compare/version_0/compare.json").read_text())
    assert len(report["lms"]) == 2  # of one folder, and yet told apart
    for lm in report["lms"].values():
        for standing in lm["standings"]:
            assert {"pairs", "pairs: prompts", "others", "test_stories", "votes"} <= set(standing["estimates"])
            assert set(standing["estimates"]["votes"]) == {"preference_accuracy", "length"}
        assert {"pairs", "pairs: prompts", "others"} == set(lm["transfer"])
        assert "votes" in lm["transfer"]["others"]
    assert not [path for path in tiny_lm_folder.iterdir() if path.is_dir()]  # nothing is written beside the model
    assert "Holm over the 0 contestants" in " ".join(capsys.readouterr().out.split())  # too few groups for any p


def test_an_interrupted_comparison_goes_on_where_it_was(
    here: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    fit, begun = L.Trainer.fit, []

    def interrupted(self, *args, **kwargs):
        begun.append(1)
        if len(begun) == 6:
            raise KeyboardInterrupt
        return fit(self, *args, **kwargs)

    monkeypatch.setattr(L.Trainer, "fit", interrupted)
    assert main(COMPARE) == 130
    assert main(COMPARE) == 0
    assert f"{N_FITS} fits, 5 of them finished before" in " ".join(capsys.readouterr().out.split())
    assert len(begun) == N_FITS + 1  # the interrupted one, and no other, was begun twice


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (("--reference", "PCA"), "--reference PCA: expected one of mean difference, LDA"),
        (("--folds", "9"), "at least 18 groups for 9 folds, found 14"),
        (("--data.pairs", "none.jsonl"), "none.jsonl: no such file"),
        (("--scorers", "{x: {scorer: Nothing}}", "--reference", "x"), "scorers.x: expected a scorer"),
        (("--lms", "[{model: data/nowhere}]"), "data/nowhere"),
        (("--folds", "1"), "--folds: expected AtLeastTwo, but 1"),
        (("--reference", "random directions"), "expected a single scorer, found a band"),
        (
            ("--scorers", "{mean difference: {scorer: LinearProbe, grid: {C: [1.0, much]}}}"),
            "scorers.mean difference: expected a scorer",
        ),
        (
            ("--scorers", "{mean difference: {scorer: LinearProbe, grid: {C: []}}}"),
            "grid.C: expected one value or more",
        ),
        (("--data.transfer", "{pairs: compare.yaml}"), "names of their own, found 'pairs' twice"),
    ],
)
def test_a_comparison_that_cannot_work_ends_with_one_sentence(
    here: Path, argv: tuple[str, ...], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main((*COMPARE, *argv)) == 2
    captured = capsys.readouterr()
    assert says in " ".join(captured.err.split())
    assert "Traceback" not in captured.err
    assert not (here / "lightning_logs").exists()


def test_the_kept_facts_are_plain_json(tmp_path: Path) -> None:
    store = FitStore(tmp_path)
    store.save("key", Fit({"x": torch.ones(2)}, {"a": [1, None], "b": "c"}))
    found = store.load("key")
    assert found is not None
    assert found.facts == {"a": [1, None], "b": "c"}
    assert store.load("other") is None


def test_a_learning_curve_stands_in_the_table_and_more_examples_than_there_are_stop_it_beforehand(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = here / "compare.yaml"
    few = "  mean difference, 4 pairs: {scorer: MeanDifference, examples: %d}\n"
    settings = config.read_text()
    config.write_text(settings + few % 9999)
    assert main(COMPARE) == 2
    assert "scorers.mean difference, 4 pairs.examples: expected at most" in " ".join(capsys.readouterr().err.split())
    assert not (here / "lightning_logs").exists() or not list((here / "lightning_logs").rglob("compare.json"))
    config.write_text(settings + few % 4)
    assert main(COMPARE) == 0
    (folder,) = (here / "lightning_logs/compare").iterdir()
    assert "mean difference, 4 pairs" in (folder / "compare.md").read_text()
