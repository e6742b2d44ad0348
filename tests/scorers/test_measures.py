"""Length, type-token ratio, perplexity and bag of words: each is what it says, with the sign that the training pairs give."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from test_scorers import fit

from probe.activations.extractor import ActivationExtractor
from probe.activations.store import ActivationStore
from probe.data.reading import Passage
from probe.lm.frozen import FrozenLM
from probe.lm.spec import LMSpec
from probe.metrics.ranks import to_numpy
from probe.scorers import BagOfWords, Length, Perplexity, TypeTokenRatio
from probe.scorers.measure import Measure

MEASURES = (Length, TypeTokenRatio, Perplexity, BagOfWords)
TEXTS = ["The hen saw the sea.", "Rain, rain: RAIN!", "A lamp", "naïve 猫 naïve"]


@pytest.fixture
def cache(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Where activations are remembered from one test to the next."""
    return str(tmp_path_factory.getbasetemp() / "activations")


@pytest.fixture
def fitted(tiny_lm: FrozenLM, small_sets: dict[str, str], tmp_path: Path, cache: str) -> Callable[..., Measure]:
    """A measure, fitted on the small sets."""

    def make(method: type[Measure], **changed: str) -> Measure:
        scorer = method(tiny_lm.spec, cache_dir=None)
        scorer.extractor = ActivationExtractor(tiny_lm, store=ActivationStore(cache))
        fit(scorer, tmp_path, small_sets | changed)
        return scorer

    return make


@pytest.fixture
def swapped_pairs(small_sets: dict[str, str], tmp_path: Path) -> str:
    """The same pairs with their creative and uncreative sides exchanged."""
    turned = {"creative": "uncreative", "response_creative": "response_uncreative"}
    turned |= {b: a for a, b in turned.items()}
    rows = [json.loads(line) for line in Path(small_sets["pairs"]).read_text().splitlines()]
    path = tmp_path / "swapped.jsonl"
    path.write_text("".join(json.dumps({turned.get(k, k): v for k, v in row.items()}) + "\n" for row in rows))
    return str(path)


def labels(scorer: Measure) -> np.ndarray:
    return np.array([row.truth for row in scorer.data.rows["train"]])


def training_passages(scorer: Measure) -> list[Passage]:
    return [row.passage(scorer.span) for row in scorer.data.rows["train"]]


def test_length_counts_the_tokens_of_the_response_alone(fitted: Callable[..., Measure]) -> None:
    got = fitted(Length).measure([Passage("a long prompt", text) for text in TEXTS])
    assert got.tolist() == [len(text.encode()) for text in TEXTS]  # a byte is a token here


def test_the_type_token_ratio_is_different_words_over_all_words(fitted: Callable[..., Measure]) -> None:
    got = fitted(TypeTokenRatio).measure([Passage("x", text) for text in [*TEXTS, "?!"]])
    assert got.tolist() == [4 / 5, 1 / 3, 1.0, 2 / 3, 0.0]


def test_perplexity_is_the_models_own_loss_on_the_response(fitted: Callable[..., Measure]) -> None:
    scorer = fitted(Perplexity)
    got = scorer.measure([Passage("a hen", text) for text in TEXTS])
    for value, text in zip(got, TEXTS, strict=True):
        prefix, whole = (
            scorer.lm.tokenizer(f"<|begin|><|user|>a hen<|end|><|assistant|>{end}", add_special_tokens=False)[
                "input_ids"
            ]
            for end in ("", text)
        )
        labels = torch.tensor([[-100] * len(prefix) + whole[len(prefix) :]])
        loss = scorer.lm.model(input_ids=torch.tensor([whole]), labels=labels).loss
        assert value.item() == pytest.approx(loss.item(), abs=1e-5)


def test_a_passages_perplexity_is_read_once_for_all_scorers_that_share_an_extractor(
    fitted: Callable[..., Measure], monkeypatch: pytest.MonkeyPatch
) -> None:
    scorer = fitted(Perplexity)
    read: list[Passage] = []
    nll = scorer.lm.nll
    monkeypatch.setattr(scorer.lm, "nll", lambda passages, **_: read.extend(passages) or nll(passages))
    known, new = training_passages(scorer), [Passage("x", text) for text in TEXTS]
    before = scorer.measure(known)
    assert read == []  # fitting read them
    next_fold = Perplexity(scorer.lm_spec, cache_dir=None)
    next_fold.extractor = scorer.extractor
    values = next_fold.measure([*new, *known, *new])
    assert read == new
    assert torch.equal(values[len(new) : -len(new)], before)
    assert torch.equal(values[: len(new)], values[-len(new) :])
    next_fold.extractor = ActivationExtractor(scorer.lm)  # another model, for all it knows
    next_fold.measure(new)
    assert read == [*new, *new]


def test_bag_of_words_is_a_logistic_regression_on_word_counts(fitted: Callable[..., Measure]) -> None:
    scorer = fitted(BagOfWords)
    splits = {
        split: [row.response.lower().replace("'", " ").split() for row in scorer.data.rows[split]]
        for split in ("train", "test")
    }
    words = {split: [["".join(filter(str.isalnum, w)) for w in text] for text in splits[split]] for split in splits}
    vocabulary = sorted({word for text in words["train"] for word in text if word})

    def counts(texts: list[list[str]]) -> np.ndarray:
        return np.array([[Counter(text)[word] for word in vocabulary] for text in texts])

    reference = LogisticRegression(max_iter=2000).fit(counts(words["train"]), labels(scorer))
    got = scorer.score_rows("test", torch.arange(len(words["test"])))[:, 0]
    np.testing.assert_allclose(to_numpy(got), reference.decision_function(counts(words["test"])), atol=1e-4)


def test_bag_of_words_is_fitted_once_however_often_it_scores(
    fitted: Callable[..., Measure], monkeypatch: pytest.MonkeyPatch
) -> None:
    scorer = fitted(BagOfWords)
    monkeypatch.setattr(LogisticRegression, "fit", lambda *_: pytest.fail("fitted again"))
    assert scorer.score([Passage("x", text) for text in TEXTS]).isfinite().all()


@pytest.mark.parametrize("method", MEASURES)
def test_the_sign_is_the_training_pairs_and_turns_round_with_their_sides(
    fitted: Callable[..., Measure], swapped_pairs: str, method: type[Measure]
) -> None:
    one, other = fitted(method), fitted(method, pairs=swapped_pairs)
    for scorer in (one, other):
        area = roc_auc_score(labels(scorer), to_numpy(scorer.measure(training_passages(scorer))))
        assert area != 0.5
        assert scorer.sign.item() == (1 if area > 0.5 else -1)
    passages = [Passage("x", text) for text in TEXTS]
    torch.testing.assert_close(one.score(passages), -other.score(passages), atol=1e-4, rtol=1e-4)
    assert one.score(passages).std() > 0
    # Bag of words learns its labels with its weights, the others by their sign alone.
    assert (one.sign == -other.sign).item() == (method is not BagOfWords)


def test_the_sign_comes_out_of_a_checkpoint_and_the_test_does_not_change_it(
    tiny_lm_folder: Path, small_sets: dict[str, str], swapped_pairs: str, tmp_path: Path
) -> None:
    spec = LMSpec(str(tiny_lm_folder), device="cpu")
    signs = {}
    for name, pairs in (("swapped", swapped_pairs), ("straight", small_sets["pairs"])):
        scorer = Length(spec, cache_dir=None)
        trainer = fit(scorer, tmp_path, small_sets | {"pairs": pairs})
        trainer.save_checkpoint(tmp_path / f"{name}.ckpt")
        signs[name] = scorer.sign.item()
    assert signs["straight"] == -signs["swapped"]
    again = Length(spec, cache_dir=None)
    trainer.test(again, datamodule=trainer.datamodule, ckpt_path=str(tmp_path / "straight.ckpt"), verbose=False)
    assert again.sign.item() == signs["straight"]


def test_the_training_texts_are_measured_once_an_epoch_however_small_the_batches(
    tiny_lm_folder: Path, small_sets: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[int] = []
    measure = Length.measure
    monkeypatch.setattr(Length, "measure", lambda self, p: measured.append(len(p)) or measure(self, p))
    scorer = Length(LMSpec(str(tiny_lm_folder), device="cpu"), cache_dir=None)
    fit(scorer, tmp_path, small_sets, batch_size=5)
    assert measured[0] == len(scorer.data.rows["train"])
    assert max(measured[1:]) <= 5
    assert sum(measured[1:]) == len(scorer.data.rows["validation"])
