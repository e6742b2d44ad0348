import json
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import sklearn.decomposition
import torch
import yaml
from scipy.special import expit
from scipy.stats import spearmanr
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

from probe.activations.pooling import Activations
from probe.cli import main
from probe.data.splits import ContrastData
from probe.directions.direction import Direction, random_directions
from probe.errors import ProbeError
from probe.lm.spec import LMSpec
from probe.metrics.evaluation import random_band
from probe.metrics.ranks import to_numpy
from probe.scorers import (
    LDA,
    PCA,
    BagOfWords,
    Length,
    LinearProbe,
    MeanDifference,
    Perplexity,
    RandomDirections,
    Scorer,
    SelfJudgement,
    TypeTokenRatio,
)
from probe.scorers.directional import DirectionalScorer
from probe.scorers.frozen import FrozenScorer
from probe.scorers.judging import Judge
from probe.scorers.pca import principal_axis

METHODS = (
    MeanDifference, LinearProbe, LDA, PCA, RandomDirections, Length, TypeTokenRatio, Perplexity, BagOfWords, SelfJudgement
)  # fmt: skip


def fit(
    scorer: Scorer,
    folder: Path,
    sets: dict[str, str],
    epochs: int = 1,
    ckpt: str | None = None,
    precision: Any = "32-true",
    **data,
) -> L.Trainer:
    trainer = L.Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        default_root_dir=folder,
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
        precision=precision,
    )
    trainer.fit(scorer, datamodule=ContrastData(**sets, **data), ckpt_path=ckpt)
    return trainer


@pytest.fixture
def spec(tiny_lm_folder: Path) -> LMSpec:
    return LMSpec(str(tiny_lm_folder), device="cpu")


@pytest.fixture
def cache(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Where activations are remembered from one test to the next."""
    return str(tmp_path_factory.getbasetemp() / "activations")


@pytest.mark.parametrize("batch_size", [0, 7])
def test_mean_difference_is_the_normalised_difference_of_class_means(
    spec: LMSpec, small_sets: dict[str, str], tmp_path: Path, batch_size: int
) -> None:
    scorer = MeanDifference(spec, cache_dir=None)
    fit(scorer, tmp_path, small_sets, batch_size=batch_size)
    h = scorer.features["train"].pooled("mean").double()
    labels = np.array([row.truth for row in scorer.data.rows["train"]])
    difference = h[labels == 1].mean(0) - h[labels == 0].mean(0)
    expected = difference / difference.norm(dim=-1, keepdim=True)
    torch.testing.assert_close(scorer.direction().vectors.double(), expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(scorer.direction().residual_gap.double(), difference.norm(dim=-1), atol=1e-6, rtol=1e-5)


def test_the_score_is_the_mean_cosine_over_the_tokens_of_the_story(
    spec: LMSpec, small_sets: dict[str, str], tmp_path: Path
) -> None:
    scorer = MeanDifference(spec, cache_dir=None)
    fit(scorer, tmp_path, small_sets)
    row = next(row for row in scorer.data.rows["test"] if row.side is None)
    passage = row.passage("response")
    (encoded,) = scorer.lm.encoder.encode([passage])
    states = scorer.lm.model(torch.tensor([encoded.ids]), output_hidden_states=True).hidden_states[1][0]
    cosines = torch.cosine_similarity(states, scorer.direction().at(0), dim=-1)
    expected = cosines[torch.tensor(encoded.pooled)].mean()
    torch.testing.assert_close(scorer.score([passage])[0, 0], expected, atol=1e-5, rtol=0)


def test_the_linear_probe_reaches_scikit_learns_loss_and_ranking_at_every_layer(
    spec: LMSpec, small_sets: dict[str, str], tmp_path: Path
) -> None:
    scorer = LinearProbe(spec, cache_dir=None, C=0.1)
    fit(scorer, tmp_path, small_sets, epochs=20)
    x = scorer.features["train"].pooled("mean")
    y = np.array([row.truth for row in scorer.data.rows["train"]])
    z = to_numpy((x - scorer.centre) / scorer.scale)
    assert np.allclose(z.mean(0), 0, atol=1e-4)
    ours = scorer.score_activations(scorer.features["train"])
    test = scorer.score_activations(scorer.features["test"])
    for layer in range(x.shape[1]):
        reference = LogisticRegression(C=0.1, tol=1e-10, max_iter=10_000).fit(z[:, layer], y)
        w, w_ref = to_numpy(scorer.weight[layer]), reference.coef_[0]

        def objective(logits: np.ndarray, w: np.ndarray) -> float:
            return log_loss(y, expit(logits)) + (w @ w) / (2 * 0.1 * len(y))

        best = objective(reference.decision_function(z[:, layer]), w_ref)
        assert objective(to_numpy(ours[:, layer]), w) == pytest.approx(best, rel=1e-3)
        z_test = to_numpy((scorer.features["test"].pooled("mean") - scorer.centre) / scorer.scale)[:, layer]
        assert spearmanr(to_numpy(test[:, layer]), reference.decision_function(z_test))[0] > 0.999


def test_the_probes_direction_ranks_raw_states_as_its_logits_do(
    spec: LMSpec, small_sets: dict[str, str], tmp_path: Path
) -> None:
    # EasySteer takes the coefficients of standardised features as a direction in raw space, which is another vector.
    scorer = LinearProbe(spec, cache_dir=None)
    fit(scorer, tmp_path, small_sets, epochs=2)
    raw = torch.einsum("nld,ld->nl", scorer.features["test"].pooled("mean"), scorer.direction().vectors)
    logits = scorer.score_activations(scorer.features["test"])
    for layer in range(raw.shape[1]):
        assert np.corrcoef(to_numpy(raw[:, layer]), to_numpy(logits[:, layer]))[0, 1] > 0.9999


def test_the_linear_probe_refuses_batches(spec: LMSpec, small_sets: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(ProbeError, match="batch_size to 0"):
        fit(LinearProbe(spec, cache_dir=None), tmp_path, small_sets, batch_size=8)


@pytest.mark.filterwarnings("ignore:SelfJudgement is not applicable")
@pytest.mark.parametrize("method", METHODS)
def test_a_checkpoint_holds_no_lm_weight_and_no_pickle(
    spec: LMSpec, small_sets: dict[str, str], tmp_path: Path, cache: str, method: type[Scorer]
) -> None:
    scorer = method(spec, cache_dir=cache, **({"count": 5} if method is RandomDirections else {}))
    trainer = fit(scorer, tmp_path, small_sets)
    path = tmp_path / "x.ckpt"
    trainer.save_checkpoint(path)
    checkpoint = torch.load(path, weights_only=True)
    n_layers, width = len(scorer.extractor.layers), scorer.lm.hidden_size
    assert sum(t.numel() for t in checkpoint["state_dict"].values()) <= 8 * n_layers * (width + 1)


def test_a_resumed_probe_equals_an_uninterrupted_one(spec: LMSpec, small_sets: dict[str, str], tmp_path: Path) -> None:
    whole = LinearProbe(spec, cache_dir=None, iterations=3)
    fit(whole, tmp_path, small_sets, epochs=6)
    first = LinearProbe(spec, cache_dir=None, iterations=3)
    trainer = fit(first, tmp_path, small_sets, epochs=3)
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    second = LinearProbe(spec, cache_dir=None, iterations=3)
    fit(second, tmp_path, small_sets, epochs=6, ckpt=str(tmp_path / "half.ckpt"))
    assert not torch.allclose(first.weight, whole.weight)
    torch.testing.assert_close(second.weight, whole.weight, atol=1e-6, rtol=1e-5)
    assert second.chosen_layer == whole.chosen_layer


def test_a_checkpoint_of_another_method_is_refused_by_name(
    spec: LMSpec, small_sets: dict[str, str], tmp_path: Path
) -> None:
    trainer = fit(MeanDifference(spec, cache_dir=None), tmp_path, small_sets)
    trainer.save_checkpoint(tmp_path / "x.ckpt")
    with pytest.raises(ProbeError, match="another method"):
        fit(LinearProbe(spec, cache_dir=None), tmp_path, small_sets, epochs=2, ckpt=str(tmp_path / "x.ckpt"))


def test_a_second_fit_runs_the_lm_zero_times_and_gives_the_same_numbers(
    spec: LMSpec, small_sets: dict[str, str], tmp_path: Path
) -> None:
    runs = [MeanDifference(spec, cache_dir=str(tmp_path / "cache")) for _ in range(2)]
    for scorer in runs:
        fit(scorer, tmp_path, small_sets)
    assert runs[0].extractor.reads.texts > 0
    assert runs[1].extractor.reads.texts == runs[1].extractor.reads.tokens == 0
    assert torch.equal(runs[0].direction().vectors, runs[1].direction().vectors)


def test_the_layer_is_chosen_on_validation_and_only_then_read_on_test(
    spec: LMSpec, small_sets: dict[str, str], tmp_path: Path
) -> None:
    scorer = MeanDifference(spec, cache_dir=None)
    trainer = fit(scorer, tmp_path, small_sets)
    chosen = scorer.chosen_layer
    assert set(scorer.scored) == {"validation"}
    judge = Judge()
    assert set(judge.judge(scorer, "validation").margins) == set()
    trainer.test(scorer, datamodule=trainer.datamodule, verbose=False)
    assert scorer.chosen_layer == chosen
    assert set(judge.judge(scorer, "test").margins) == {"length", "surface", "bag_of_words"}


def test_of_layers_that_tie_a_scorer_without_a_direction_takes_the_one_nearest_the_middle(
    spec: LMSpec, small_sets: dict[str, str], tmp_path: Path, cache: str
) -> None:
    class SameAtEveryLayer(FrozenScorer):
        def build(self) -> None: ...

        def score_activations(self, activations: Activations) -> torch.Tensor:
            return activations.pooled("last")[:, :1].mean(-1).expand(-1, len(self.extractor.layers))

    scorer = SameAtEveryLayer(spec, cache_dir=cache)
    fit(scorer, tmp_path, small_sets)
    assert (scorer.chosen, [*scorer.tied]) == ("layer_1", [1, 0, 2])


def test_a_direction_read_from_prompts_is_judged_on_stories(
    spec: LMSpec, small_sets: dict[str, str], tmp_path: Path
) -> None:
    scorer = MeanDifference(spec, span="prompt", pooling="last", cache_dir=None)
    fit(scorer, tmp_path, small_sets)
    assert scorer.data.rows["train"][0].passage("prompt").response is None
    assert Judge().judge(scorer, "validation").evaluation.n_stories == 20
    assert scorer.direction().provenance["span"] == "prompt"


def test_a_saved_direction_carries_where_it_comes_from(
    spec: LMSpec, small_sets: dict[str, str], tmp_path: Path
) -> None:
    scorer = MeanDifference(spec, cache_dir=None)
    fit(scorer, tmp_path, small_sets)
    loaded = Direction.load(scorer.direction().save(tmp_path / "direction"))
    wanted = {"method", "span", "pooling", "layers", "lm", "lm_fingerprint", "template_hash", "data_fingerprint"}
    assert wanted | {"n_pairs", "n_groups", "seed", "versions"} <= set(loaded.provenance)
    assert loaded.chosen == scorer.chosen_layer
    assert torch.equal(loaded.vectors, scorer.direction().vectors)


def test_two_processes_give_the_direction_of_one(spec: LMSpec, small_sets: dict[str, str], tmp_path: Path) -> None:
    # The shares of two ranks, streamed apart and added, as torchmetrics adds the states across processes.
    from probe.data.splits import RowSampler, _RowNumbers
    from probe.directions.direction import ClassSums, mean_difference

    scorer = MeanDifference(spec, cache_dir=None)
    fit(scorer, tmp_path, small_sets)
    rows, h = scorer.data.rows["train"][:-1], scorer.features["train"].pooled("mean")
    one, parts = ClassSums(*h.shape[1:]), [ClassSums(*h.shape[1:]) for _ in range(2)]
    numbers = _RowNumbers(rows)
    for sums, samplers in ((one, [(0, 1)]), (parts[0], [(0, 2)]), (parts[1], [(1, 2)])):
        for rank, world in samplers:
            items = [numbers[i] for i in RowSampler(len(rows), 0, True, rank, world)]
            sums.update(h[[i["row"] for i in items]], torch.tensor([i["label"] for i in items]))
    total, count = parts[0].total + parts[1].total, parts[0].count + parts[1].count
    expected, _ = mean_difference(one.compute()[0])
    torch.testing.assert_close(mean_difference(total / count[:, None, None])[0], expected, atol=1e-6, rtol=0)


# Linear discriminant analysis


def test_lda_is_scikit_learns_at_every_layer(
    spec: LMSpec, small_sets: dict[str, str], tmp_path: Path, cache: str
) -> None:
    scorer = LDA(spec, cache_dir=cache)
    fit(scorer, tmp_path, small_sets)
    y = np.array([row.truth for row in scorer.data.rows["train"]])
    train, test = scorer.features["train"], scorer.features["test"]
    raw = to_numpy(torch.einsum("nld,ld->nl", test.pooled("mean"), scorer.direction().vectors))
    for layer in range(len(scorer.extractor.layers)):
        x_train, x_test = (to_numpy(x.pooled("mean")[:, layer]) for x in (train, test))
        reference = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto").fit(x_train, y)
        for x, activations in ((x_train, train), (x_test, test)):
            expected = reference.decision_function(x)
            got = to_numpy(scorer.score_activations(activations)[:, layer])
            np.testing.assert_allclose(got, expected, atol=1e-3 * expected.std())
        assert np.corrcoef(raw[:, layer], reference.decision_function(x_test))[0, 1] > 0.9999
    torch.testing.assert_close(scorer.direction().vectors.norm(dim=-1), torch.ones(3))
    assert (scorer.direction().residual_gap > 0).all()


# Principal components of the pairs' differences


def test_the_axis_is_scikit_learns_first_component_of_the_differences_and_their_negatives(
    spec: LMSpec, small_sets: dict[str, str], tmp_path: Path, cache: str
) -> None:
    scorer = PCA(spec, cache_dir=cache)
    fit(scorer, tmp_path, small_sets)
    rows = scorer.data.rows["train"]
    creative, uncreative = ([i for i, row in enumerate(rows) if row.truth == side] for side in (1, 0))
    assert [rows[i].pair for i in creative] == [rows[i].pair for i in uncreative]
    h = scorer.features["train"].pooled("mean").double()
    for layer in range(h.shape[1]):
        differences = to_numpy(h[creative, layer] - h[uncreative, layer])
        component = sklearn.decomposition.PCA(1).fit(np.concatenate([differences, -differences])).components_[0]
        ours = to_numpy(scorer.direction().vectors[layer])
        assert abs(ours @ component) == pytest.approx(1, abs=1e-5)
        assert (differences @ ours > 0).mean() >= 0.5


def test_the_axis_is_what_the_pairs_share_where_centred_components_find_what_varies_among_them() -> None:
    rng = np.random.default_rng(0)
    differences = rng.normal(scale=0.1, size=(40, 8))
    differences[:, 0] += 3  # shared by all pairs
    differences[:, 1] += rng.normal(size=40)  # large, with either sign
    axis = principal_axis(torch.from_numpy(differences))
    centred = sklearn.decomposition.PCA(1).fit(differences).components_[0]
    assert axis[0] > 0.99
    assert abs(centred[0]) < 0.2


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("first", [[3.0, -3.5], [3.5, -3.0]])
def test_swapping_the_classes_flips_the_axis_also_where_the_pairs_are_of_two_minds(
    first: list[float], seed: int
) -> None:
    differences = torch.from_numpy(np.random.default_rng(seed).normal(size=(10, 6)))
    differences[:, 0] = torch.tensor(first * 5)
    axis = principal_axis(differences)
    assert (differences @ axis).sign().sum() == 0
    assert (differences @ axis).mean() > 0  # so the mean decides
    assert torch.equal(principal_axis(-differences), -axis)


# Random directions


def shuffled(stories: str, folder: Path) -> str:
    """The same stories with their ratings given to others."""
    rows = [json.loads(line) for line in Path(stories).read_text().splitlines()]
    ratings = np.random.default_rng(0).permutation([row["rating"] for row in rows])
    path = folder / "shuffled.jsonl"
    path.write_text("".join(json.dumps(row | {"rating": r}) + "\n" for row, r in zip(rows, ratings, strict=True)))
    return str(path)


def test_random_directions_are_the_band_of_the_report_drawn_chosen_and_signed_by_hand(
    spec: LMSpec, small_sets: dict[str, str], tmp_path: Path, cache: str
) -> None:
    scorer = RandomDirections(spec, cache_dir=cache, count=12, seed=3)
    trainer = fit(scorer, tmp_path, small_sets)
    trainer.test(scorer, datamodule=trainer.datamodule, verbose=False)
    assert scorer.columns == tuple(f"random_{i}" for i in range(12))
    drawn = random_directions(12, scorer.extractor.layers, scorer.lm.hidden_size, seed=3)

    def stories(split: str) -> tuple[np.ndarray, list[int]]:
        rows = scorer.data.rows[split]
        rated = [i for i, row in enumerate(rows) if row.side is None]
        return np.array([rows[i].truth for i in rated]), rated

    def by_layer(split: str) -> np.ndarray:
        truth, rated = stories(split)
        cosines = to_numpy(torch.einsum("nld,rld->nlr", scorer.features[split].pooled("unit_mean")[rated], drawn))
        rho = [spearmanr(c, truth)[0] for c in cosines.reshape(len(truth), -1).T]
        return np.array(rho).reshape(cosines.shape[1:])

    for split in ("validation", "test"):
        truth, rated = stories(split)
        got = [spearmanr(column, truth)[0] for column in scorer.scored[split][rated].T]
        band = random_band(by_layer("validation"), by_layer(split))
        np.testing.assert_allclose(got, band, atol=1e-9)
        assert split == "test" or (band >= 0).all()
    assert {0, 1, 2} == set(scorer.layer_of.tolist())
    assert Judge().judge(scorer, "test").evaluation.estimates["spearman"].keys() == {
        scorer.chosen, "length", "surface", "bag_of_words",
    }  # fmt: skip


def test_a_random_directions_layer_and_sign_do_not_know_the_truth_of_the_test(
    spec: LMSpec, small_sets: dict[str, str], tmp_path: Path, cache: str
) -> None:
    found = []
    for test_stories in (small_sets["test_stories"], shuffled(small_sets["test_stories"], tmp_path)):
        scorer = RandomDirections(spec, cache_dir=cache, count=12)
        trainer = fit(scorer, tmp_path, small_sets | {"test_stories": test_stories})
        trainer.test(scorer, datamodule=trainer.datamodule, verbose=False)
        found.append(scorer)
    assert found[0].data.rows["test"] != found[1].data.rows["test"]
    assert torch.equal(found[0].layer_of, found[1].layer_of)
    assert torch.equal(found[0].vectors, found[1].vectors)
    assert found[0].chosen == found[1].chosen
    assert (found[0].scored["test"] == found[1].scored["test"]).all()


def test_a_checkpoint_keeps_the_signs_and_layers_of_random_directions(
    spec: LMSpec, small_sets: dict[str, str], tmp_path: Path, cache: str
) -> None:
    scorer = RandomDirections(spec, cache_dir=cache, count=12)
    trainer = fit(scorer, tmp_path, small_sets)
    trainer.save_checkpoint(tmp_path / "x.ckpt")
    trainer.test(scorer, datamodule=trainer.datamodule, verbose=False)
    assert (scorer.vectors != random_directions(12, (0, 1, 2), 32, seed=0)).any()  # some were turned round
    again = RandomDirections(spec, cache_dir=cache, count=12)
    trainer.test(again, datamodule=trainer.datamodule, ckpt_path=str(tmp_path / "x.ckpt"), verbose=False)
    resumed = RandomDirections(spec, cache_dir=cache, count=12)
    fit(resumed, tmp_path, small_sets, epochs=2, ckpt=str(tmp_path / "x.ckpt"))
    for other in (again, resumed):
        assert torch.equal(other.vectors, scorer.vectors)
        assert torch.equal(other.layer_of, scorer.layer_of)
        assert other.chosen == scorer.chosen
    assert (again.scored["test"] == scorer.scored["test"]).all()


# The command line


@pytest.mark.parametrize("method", [m for m in METHODS if m not in (MeanDifference, LinearProbe)])
@pytest.mark.filterwarnings("ignore:SelfJudgement is not applicable")
def test_fit_on_the_command_line_ends_with_a_table_for_every_method(
    spec: LMSpec,
    small_sets: dict[str, str],
    tmp_path: Path,
    cache: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    method: type[Scorer],
) -> None:
    monkeypatch.chdir(tmp_path)
    data = {"class_path": "ContrastData", "init_args": small_sets}
    model = {"class_path": method.__name__, "init_args": {"cache_dir": cache}}
    config = {"lm": {"model": spec.model, "device": "cpu"}, "model": model, "data": data}
    Path("fit.yaml").write_text(yaml.safe_dump(config | {"steering": {"n_prompts": 0}, "trainer": {"logger": False}}))
    assert main(["fit", "--config", "fit.yaml", "--trainer.enable_progress_bar", "false"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert f"{method.__name__}, span response, on test: 20 rated stories" in shown
    assert "Spearman" in shown
    assert "(chosen)" in shown
    assert "Verdict: " in shown
    metrics = json.loads(Path("metrics.json").read_text())
    (rho,) = [
        row["value"]
        for row in metrics["results"]["test"]
        if (row["metric"], row["column"]) == ("spearman", metrics["chosen"])
    ]
    assert (rho is None) == (method is SelfJudgement)  # the tiny model does not reply


@pytest.mark.filterwarnings("ignore:.*changes nothing here")
@pytest.mark.parametrize("precision", ["bf16-true", "16-true", "64-true", "bf16-mixed"])
@pytest.mark.parametrize("method", [MeanDifference, LinearProbe, LDA, PCA])
def test_what_is_learned_is_float32_whatever_the_trainer_says(
    spec: LMSpec,
    small_sets: dict[str, str],
    tmp_path: Path,
    cache: str,
    method: type[DirectionalScorer],
    precision: str,
) -> None:
    runs = [method(spec, cache_dir=cache) for _ in range(2)]
    for scorer, asked in zip(runs, ("32-true", precision), strict=True):
        fit(scorer, tmp_path, small_sets, precision=asked)
    plain, rounded = (scorer.direction() for scorer in runs)
    assert torch.equal(rounded.vectors, plain.vectors)
    assert torch.equal(rounded.residual_gap, plain.residual_gap)
    assert rounded.chosen == plain.chosen
    assert (runs[0].scored["validation"] == runs[1].scored["validation"]).all()
    assert torch.get_default_dtype() == torch.float32
