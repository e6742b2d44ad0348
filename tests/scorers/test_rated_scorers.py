import json
import random
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from sklearn.linear_model import Ridge, RidgeCV
from sklearn.preprocessing import StandardScaler
from small import fitted

from probe.cli import main
from probe.data.rated import RatedData
from probe.data.reading import labels, story_rows
from probe.data.rows import RatedText
from probe.errors import ProbeError
from probe.lm.spec import LMSpec
from probe.metrics.bootstrap import Estimate, group_bootstrap
from probe.metrics.ranks import spearman_within, to_numpy
from probe.metrics.texts import surface_features
from probe.scorers import (
    LDA,
    PCA,
    BagOfWords,
    JoinedRidge,
    Length,
    LinearProbe,
    LoRAProbe,
    LoRAWriter,
    MeanDifference,
    Perplexity,
    RandomDirections,
    RidgeProbe,
    Scorer,
    SelfJudgement,
    SurfaceFeatures,
    TypeTokenRatio,
)
from probe.scorers.bag_of_words import fit_bag_of_words, words_score
from probe.scorers.ridge import PENALTIES, ridge
from probe.scorers.saved import SavedScorer
from probe.scorers.surface_features import fit_surface, surface_score
from probe.storyteller.storyteller import sample_premise, sample_story


@pytest.fixture(scope="module")
def rated_file(tmp_path_factory: pytest.TempPathFactory) -> str:
    """60 stories of 12 topics with the share of inventive sentences as their rating."""
    rng, path = random.Random(0), tmp_path_factory.mktemp("rated") / "rated.jsonl"
    records = []
    for topic in range(12):
        for level in (0.0, 0.25, 0.5, 0.75, 1.0):
            premise = sample_premise(rng, topic)
            story = sample_story(rng, premise, level, "A", 3)
            records.append({"text": story.text, "rating": story.inventive_share, "group": premise.group})
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(path)


@pytest.fixture
def spec(tiny_lm_folder: Path) -> LMSpec:
    return LMSpec(str(tiny_lm_folder), device="cpu")


def fit(scorer: Scorer, folder: Path, file: str, epochs: int = 1, **settings: Any) -> Scorer:
    L.seed_everything(0, verbose=False)
    trainer = L.Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        default_root_dir=folder,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
    )
    trainer.fit(scorer, datamodule=RatedData(file, **settings))
    return scorer


def test_a_ridge_probe_is_scikit_learns_at_every_layer(spec: LMSpec, rated_file: str, tmp_path: Path) -> None:
    scorer = fit(RidgeProbe(spec, cache_dir=None), tmp_path, rated_file)
    truth = [row.truth for row in scorer.data.rows["train"]]
    for i in range(len(scorer.columns)):
        train, validation = (to_numpy(scorer.features[s].pooled("mean")[:, i]) for s in ("train", "validation"))
        scaler = StandardScaler().fit(train)
        expected = RidgeCV(PENALTIES).fit(scaler.transform(train), truth).predict(scaler.transform(validation))
        np.testing.assert_allclose(scorer.scored["validation"][:, i], expected, atol=1e-4)


def test_a_joined_ridge_is_scikit_learns_on_all_that_is_joined(spec: LMSpec, rated_file: str, tmp_path: Path) -> None:
    scorer = JoinedRidge(spec, layers=[0, 2], poolings=("mean", "last", "unit_mean"), cache_dir=None)
    fit(scorer, tmp_path, rated_file)
    truth = [row.truth for row in scorer.data.rows["train"]]
    train, validation = (
        np.concatenate([to_numpy(read.at(k, p)) for p in scorer.poolings for k in (0, 2)], 1)
        for read in (scorer.features[s] for s in ("train", "validation"))
    )
    scaler = StandardScaler().fit(train)
    expected = RidgeCV(to_numpy(PENALTIES)).fit(scaler.transform(train), truth).predict(scaler.transform(validation))
    assert scorer.columns == ("score",)
    np.testing.assert_allclose(scorer.scored["validation"][:, 0], expected, atol=1e-4)


def test_by_default_three_blocks_in_and_above_the_middle_are_joined(
    spec: LMSpec, rated_file: str, tmp_path: Path
) -> None:
    scorer = fit(JoinedRidge(spec, cache_dir=None), tmp_path, rated_file)
    n = scorer.lm.n_layers
    assert scorer.joined == sorted({int(0.4 * n), int(0.6 * n), int(0.75 * n)})
    assert len(scorer.weight) == 2 * len(scorer.joined) * scorer.lm.hidden_size


@pytest.mark.parametrize("shape", [(300, 12), (40, 60)])
@pytest.mark.parametrize("noise", [0.1, 3.0, 30.0])
def test_ridge_takes_the_penalty_and_the_coefficients_that_scikit_learn_takes(
    shape: tuple[int, int], noise: float
) -> None:
    rng = np.random.default_rng(0)
    z = rng.normal(size=shape) @ rng.normal(size=(shape[1], shape[1])) + 3
    truth = z[:, :4].sum(1) + noise * rng.normal(size=len(z)) - 7
    found = RidgeCV(to_numpy(PENALTIES)).fit(z, truth)
    weight, bias = ridge(torch.from_numpy(z), torch.from_numpy(truth))
    np.testing.assert_allclose(weight, found.coef_, atol=1e-8)
    assert bias == pytest.approx(found.intercept_, abs=1e-7)


def test_the_direction_of_a_ridge_probe_is_the_way_its_prediction_grows(
    spec: LMSpec, rated_file: str, tmp_path: Path
) -> None:
    scorer = fit(RidgeProbe(spec, cache_dir=None), tmp_path, rated_file)
    states = scorer.features["train"]
    along = torch.einsum("nld,ld->nl", states.pooled("mean"), scorer.direction().vectors)
    for i, column in enumerate(scorer.score_activations(states).T):
        assert np.corrcoef(along[:, i].numpy(), column.numpy())[0, 1] == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("method", [MeanDifference, LDA, LinearProbe])
def test_methods_of_two_classes_learn_from_the_extreme_quarters_alone(
    spec: LMSpec, rated_file: str, tmp_path: Path, method: type[Scorer]
) -> None:
    scorer = fit(method(spec, cache_dir=None), tmp_path, rated_file)
    label = np.array(labels(scorer.data.rows["train"]))
    assert 0 < (label == -1).sum() < len(label) - 4
    h = scorer.features["train"].pooled("mean")
    difference = h[label == 1].mean(0) - h[label == 0].mean(0)
    gap = scorer.direction().residual_gap
    along = (difference * scorer.direction().vectors).sum(-1)
    torch.testing.assert_close(gap, along, atol=1e-5, rtol=1e-4)
    assert (along > 0).all()


def test_words_and_surface_learn_the_ratings_themselves(spec: LMSpec, rated_file: str, tmp_path: Path) -> None:
    words = fit(BagOfWords(spec, cache_dir=None), tmp_path, rated_file)
    assert isinstance(words.words[-1], Ridge)  # type: ignore[attr-defined]
    truth = np.array([row.truth for row in words.data.rows["validation"]])
    assert spearmanr(words.scored["validation"][:, 0], truth)[0] > 0.5
    surface = fit(SurfaceFeatures(spec, cache_dir=None), tmp_path, rated_file)
    rows = surface.data.rows
    x = {s: StandardScaler().fit([surface_features(r.response or "") for r in rows["train"]]) for s in rows}["train"]
    features = {s: x.transform([surface_features(r.response or "") for r in rows[s]]) for s in rows}
    truth = np.array([row.truth for row in rows["train"]])
    expected = RidgeCV(np.logspace(-1, 3, 9)).fit(features["train"], truth).predict(features["validation"])
    sign = float(surface.sign.detach())  # type: ignore[attr-defined]
    np.testing.assert_allclose(surface.scored["validation"][:, 0], sign * expected, atol=1e-9)


def test_adapters_learn_ratings_by_the_squared_error(spec: LMSpec, rated_file: str, tmp_path: Path) -> None:
    scorer = LoRAProbe(spec, layer=1, lr=0.01, rank=4, cache_dir=None)
    fit(scorer, tmp_path, rated_file, epochs=4, batch_size=8)
    rows = scorer.data.rows["train"]
    truth = np.array([row.truth for row in rows])
    target = (truth - truth.mean()) / truth.std()
    scores = to_numpy(scorer.score([row.passage("response") for row in rows]))[:, 0]
    assert ((scores - target) ** 2).mean() < 0.98  # what a constant leaves is 1
    batch = {"row": torch.arange(8), "label": torch.full((8,), -1)}
    scorer.log = lambda *_, **__: None  # type: ignore[method-assign]
    expected = ((scores[:8] - target[:8]) ** 2).mean()
    assert float(scorer.training_step(batch, 0)) == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("method", ["RidgeProbe", "JoinedRidge"])
def test_a_run_on_ratings_is_told_restored_and_scores_as_it_did(
    method: str, tiny_lm_folder: Path, rated_file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["fit", "--lm.model", str(tiny_lm_folder), "--lm.device", "cpu", "--model", method]
    words += ["--data", "RatedData", "--data.texts", rated_file, "--steering.n_prompts", "1"]
    words += ["--steering.max_new_tokens", "4"]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "rated stories" in said and "Pearson" in said and "surface" in said
    run = tmp_path / "lightning_logs/probe/version_0"
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["provenance"]["n_texts"] == 40
    told = {record["metric"] for record in metrics["results"]["test"]}
    assert {"pearson", "spearman_within_groups", "spearman_beyond_length"} <= told
    texts = [json.loads(line)["text"] for line in Path(rated_file).read_text().splitlines()[:4]]
    assert main(["test", "--config", str(run / "config.yaml"), "--ckpt_path", str(run / "checkpoints/last.ckpt")]) == 0
    scores = SavedScorer(run).score(texts)
    assert len(set(scores)) == 4 and np.isfinite(scores).all()


def test_a_config_of_ratings_serves_the_verbs_that_do_not_use_them(
    tiny_lm_folder: Path, small_sets: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    fitted(tmp_path, tiny_lm_folder, small_sets, "--steering.n_prompts=0")
    config = tmp_path / "ratings.yaml"
    config.write_text("data: {class_path: RatedData, init_args: {texts: mine.csv, test_preferences: x.jsonl}}\n")
    monkeypatch.chdir(tmp_path)
    words = ["generate", "Write.", "--config", str(config), "--strength", "1", "--strength_unit", "gap"]
    assert main([*words, "--max_new_tokens", "2"]) == 0
    config.write_text("data: {class_path: RatedData, init_args: {txets: mine.csv}}\n")
    assert main(words) == 2
    assert "found `data.txets`, which no verb knows" in capsys.readouterr().err


def test_a_slip_in_the_data_section_of_ratings_is_named(capsys: Any) -> None:
    assert main(["fit", "--data", "RatedData", "--data.text", "mine.csv"]) == 2
    assert "did you mean texts?" in capsys.readouterr().err
    assert main(["fit", "--data", "RatedData", "--help"]) == 0
    assert "--data.texts" in capsys.readouterr().out


@pytest.mark.parametrize("method", [Length, Perplexity, RandomDirections, SelfJudgement, TypeTokenRatio])
def test_every_other_method_is_judged_on_ratings_too(
    spec: LMSpec, rated_file: str, tmp_path: Path, method: type[Scorer]
) -> None:
    scorer = fit(method(spec, cache_dir=None), tmp_path, rated_file)
    assert scorer.chosen in scorer.columns
    assert len(scorer.scored["validation"]) == len(scorer.data.rows["validation"]) == 10


@pytest.mark.parametrize("method", [PCA, LoRAWriter])
def test_what_can_learn_from_pairs_alone_says_so_before_anything_is_read(
    spec: LMSpec, rated_file: str, tmp_path: Path, method: type[Scorer]
) -> None:
    with pytest.raises(ProbeError, match=f"{method.__name__} learns from pairs, whose sides differ, found rated texts"):
        fit(method(spec, cache_dir=None), tmp_path, rated_file)


@pytest.mark.simulation
def test_ratings_that_were_shuffled_within_topics_teach_nothing() -> None:
    words = [f"word{i}" for i in range(60)]
    found: dict[str, list[Estimate]] = {"words": [], "surface": []}
    for seed in range(200):
        rng = random.Random(seed)
        rows = []
        for topic in range(60):
            texts = [" ".join(rng.choices(words, k=rng.randint(5, 30))) for _ in range(6)]
            ratings = [text.count("word1") + 0.1 * len(text) + topic % 7 for text in texts]
            rng.shuffle(ratings)
            rows += story_rows([RatedText(t, r, f"t{topic}") for t, r in zip(texts, ratings, strict=True)])
        train, test = rows[:180], rows[180:]
        texts, truth = [row.response or "" for row in test], np.array([row.truth for row in test])
        scores = np.stack(
            [
                words_score(fit_bag_of_words(train, "response"), texts),
                surface_score(fit_surface(train, "response"), texts),
            ],
            axis=1,
        )
        groups = [row.group for row in test]
        within = partial(spearman_within, scores, truth, np.unique(groups, return_inverse=True)[1])
        for name, estimate in zip(found, group_bootstrap(within, groups, 200), strict=True):
            found[name].append(estimate)
    for name, of_seed in found.items():
        told = [estimate.lower > 0 or estimate.upper < 0 for estimate in of_seed]
        # 0.05 is meant; three standard errors of a share of 200 are 0.046.
        assert np.mean(told) < 0.1, name
        assert abs(np.mean([estimate.value for estimate in of_seed])) < 0.02, name
