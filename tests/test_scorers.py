from pathlib import Path

import lightning as L
import numpy as np
import pytest
import torch
from scipy.special import expit
from scipy.stats import spearmanr
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

from probe.data import ContrastData
from probe.directions import Direction
from probe.errors import ProbeError
from probe.judging import Judge
from probe.metrics import to_numpy
from probe.scorers import LinearProbe, MeanDifference, Scorer
from probe.spec import LMSpec


def fit(
    scorer: Scorer, folder: Path, sets: dict[str, str], epochs: int = 1, ckpt: str | None = None, **data
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
    )
    trainer.fit(scorer, datamodule=ContrastData(**sets, **data), ckpt_path=ckpt)
    return trainer


@pytest.fixture
def spec(tiny_lm_folder: Path) -> LMSpec:
    return LMSpec(str(tiny_lm_folder), device="cpu")


@pytest.mark.parametrize("batch_size", [0, 7])
def test_mean_difference_is_the_normalised_difference_of_class_means(
    spec: LMSpec, small_sets: dict[str, str], tmp_path: Path, batch_size: int
) -> None:
    scorer = MeanDifference(spec, cache_dir=None)
    fit(scorer, tmp_path, small_sets, batch_size=batch_size)
    h = scorer.features["train"].mean.double()
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
    row = next(row for row in scorer.data.rows["test"] if row.pair < 0)
    passage = row.passage("response")
    (encoded,) = scorer.lm.encode([passage])
    states = scorer.lm.model(torch.tensor([encoded.ids]), output_hidden_states=True).hidden_states[1][0]
    cosines = torch.cosine_similarity(states, scorer.direction().at(0), dim=-1)
    expected = cosines[torch.tensor(encoded.pooled)].mean()
    torch.testing.assert_close(scorer.score([passage])[0, 0], expected, atol=1e-5, rtol=0)


def test_the_linear_probe_reaches_scikit_learns_loss_and_ranking_at_every_layer(
    spec: LMSpec, small_sets: dict[str, str], tmp_path: Path
) -> None:
    scorer = LinearProbe(spec, cache_dir=None, C=0.1)
    fit(scorer, tmp_path, small_sets, epochs=20)
    x = scorer.features["train"].mean
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
        z_test = to_numpy((scorer.features["test"].mean - scorer.centre) / scorer.scale)[:, layer]
        assert spearmanr(to_numpy(test[:, layer]), reference.decision_function(z_test))[0] > 0.999


def test_the_probes_direction_ranks_raw_states_as_its_logits_do(
    spec: LMSpec, small_sets: dict[str, str], tmp_path: Path
) -> None:
    # EasySteer takes the coefficients of standardised features as a direction in raw space, which is another vector.
    scorer = LinearProbe(spec, cache_dir=None)
    fit(scorer, tmp_path, small_sets, epochs=2)
    raw = torch.einsum("nld,ld->nl", scorer.features["test"].mean, scorer.direction().vectors)
    logits = scorer.score_activations(scorer.features["test"])
    for layer in range(raw.shape[1]):
        assert np.corrcoef(to_numpy(raw[:, layer]), to_numpy(logits[:, layer]))[0, 1] > 0.9999


def test_the_linear_probe_refuses_batches(spec: LMSpec, small_sets: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(ProbeError, match="batch_size to 0"):
        fit(LinearProbe(spec, cache_dir=None), tmp_path, small_sets, batch_size=8)


@pytest.mark.parametrize("method", [MeanDifference, LinearProbe])
def test_a_checkpoint_holds_no_lm_weight_and_no_pickle(
    spec: LMSpec, small_sets: dict[str, str], tmp_path: Path, method: type[Scorer]
) -> None:
    scorer = method(spec, cache_dir=None)
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
    assert set(judge.judge(scorer, "test").margins) == {"length", "bag_of_words"}


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
    from probe.data import RowSampler, _RowNumbers
    from probe.directions import ClassSums, mean_difference

    scorer = MeanDifference(spec, cache_dir=None)
    fit(scorer, tmp_path, small_sets)
    rows, h = scorer.data.rows["train"][:-1], scorer.features["train"].mean
    one, parts = ClassSums(*h.shape[1:]), [ClassSums(*h.shape[1:]) for _ in range(2)]
    numbers = _RowNumbers(rows)
    for sums, samplers in ((one, [(0, 1)]), (parts[0], [(0, 2)]), (parts[1], [(1, 2)])):
        for rank, world in samplers:
            items = [numbers[i] for i in RowSampler(len(rows), 0, True, rank, world)]
            sums.update(h[[i["row"] for i in items]], torch.tensor([i["label"] for i in items]))
    total, count = parts[0].total + parts[1].total, parts[0].count + parts[1].count
    expected, _ = mean_difference(one.compute()[0])
    torch.testing.assert_close(mean_difference(total / count[:, None, None])[0], expected, atol=1e-6, rtol=0)
