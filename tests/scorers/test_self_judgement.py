"""The model asked outright: its log-odds are its own, order cancels, and a model that does not reply is not made to judge."""

import io
import math
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from test_scorers import fit
from torch import Tensor

from probe.activations.extractor import ActivationExtractor
from probe.activations.store import ActivationStore
from probe.data.reading import Passage
from probe.data.splits import ContrastData
from probe.errors import ProbeError
from probe.lm.frozen import FrozenLM
from probe.lm.spec import LMSpec
from probe.scorers import Compares, SelfJudgement
from probe.scorers.judging import Judge
from probe.scorers.self_judgement import CREATIVE, MORE_CREATIVE
from probe.shown.terminal import Terminal
from probe.verbs.fit.screens import print_table

pytestmark = pytest.mark.filterwarnings("ignore:SelfJudgement is not applicable")
ROOT = Path(__file__).parents[2]
MakeLM = Callable[..., FrozenLM]
ONE = [Passage("x", text) for text in ("A hen.", "The lamp swam home, at last, to the sea.", "Salt", "Rain fell.")]
OTHER = [Passage("x", text) for text in ("The bell of ash rang.", "Moss.", "A thread, a stone.", "Rain rose up.")]


def token(lm: FrozenLM, letter: str) -> int:
    (found,) = lm.tokenizer(letter, add_special_tokens=False)["input_ids"]
    return int(found)


def willing(lm: FrozenLM, letters: str) -> FrozenLM:
    """Made to reply with one of some letters, each e^20 times likelier; with which is left to its random weights."""
    bonus = torch.zeros(lm.model.config.vocab_size)
    bonus[[token(lm, letter) for letter in letters]] = 20
    lm.model.lm_head.register_forward_hook(lambda _m, _a, out: out + bonus)
    return lm


def scripted(lm: FrozenLM, script: Mapping[str, Callable[[Tensor], Tensor]]) -> FrozenLM:
    """Made to follow a script: letter -> logit `[B, T]` as a function of the ids `[B, T]`; all other logits are -30."""
    forward = lm.model.forward
    lm.longest_in_tree = 0  # a script reads rows, not trees,
    lm.model.get_output_embeddings = lambda: None  # and needs all ids of a row for one logit

    def follow(input_ids: Tensor, **kwargs: object) -> object:
        out = forward(input_ids, **kwargs)
        out.logits = torch.full_like(out.logits, -30)
        for letter, logit in script.items():
            out.logits[..., token(lm, letter)] = logit(input_ids)
        return out

    lm.model.forward = follow
    return lm


def always(value: float) -> Callable[[Tensor], Tensor]:
    return lambda ids: torch.full(ids.shape, value)


def counted(lm: FrozenLM) -> list[int]:
    """Numbers of texts of the passes through the head from now on."""
    passes: list[int] = []
    forward, lm.longest_in_tree = lm.model.forward, 0

    def count(input_ids: Tensor, **kwargs: object) -> object:
        passes.append(len(input_ids))
        return forward(input_ids, **kwargs)

    lm.model.forward = count
    return passes


@pytest.fixture
def cache(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Where activations are remembered from one test to the next."""
    return str(tmp_path_factory.getbasetemp() / "activations")


@pytest.fixture
def judge_of(small_sets: dict[str, str], tmp_path: Path, cache: str) -> Callable[..., SelfJudgement]:
    """A SelfJudgement of a model, fitted on the small sets."""

    def fitted(lm: FrozenLM, **sets: str) -> SelfJudgement:
        scorer = SelfJudgement(lm.spec, cache_dir=None)
        scorer.extractor = ActivationExtractor(lm, store=ActivationStore(cache))
        fit(scorer, tmp_path, small_sets | sets)
        return scorer

    return fitted


def probabilities(lm: FrozenLM, question: str) -> Tensor:
    """Of the first token of the reply `[V]`, by the model's own forward pass on this question alone."""
    prompt = f"<|begin|><|user|>{question}<|end|><|assistant|>"
    ids = lm.tokenizer(prompt, add_special_tokens=False, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        return lm.model(input_ids=ids).logits[0, -1].double().softmax(-1)


# A model that replies


def test_log_odds_are_the_models_own_summed_over_spellings_one_text_at_a_time(
    make_lm: MakeLM, judge_of: Callable[..., SelfJudgement]
) -> None:
    scorer = judge_of(willing(make_lm(), "YyNn"))
    assert scorer.note == ""
    assert scorer.mass[CREATIVE] > 0.9
    yes, no = ([token(scorer.lm, letter) for letter in letters] for letters in ("Yy", "Nn"))
    expected = []
    for passage in ONE + OTHER:
        asked = f"Is the following text creative? Reply with Yes or No only.\n\n{passage.pooled}"
        p = probabilities(scorer.lm, asked)
        assert min(p[[*yes, *no]]) > 1e-4  # so that leaving out a spelling would be seen
        expected.append((p[yes].sum() / p[no].sum()).log())
    got = scorer.measure(ONE + OTHER)
    torch.testing.assert_close(got, torch.stack(expected), atol=1e-4, rtol=1e-4)
    assert got.std() > 0.01
    assert torch.equal(scorer.score(ONE + OTHER), (scorer.sign * got)[:, None])


def test_a_comparison_is_the_mean_of_both_orders_and_swapping_the_texts_flips_its_sign_exactly(
    make_lm: MakeLM, judge_of: Callable[..., SelfJudgement]
) -> None:
    scorer = judge_of(willing(make_lm(), "AaBb"))
    assert isinstance(scorer, Compares)
    a, b = ([token(scorer.lm, letter) for letter in letters] for letters in ("Aa", "Bb"))

    def shown_first(one: Passage, other: Passage) -> Tensor:
        question = "Which of these two texts is more creative? Reply with A or B only."
        p = probabilities(scorer.lm, f"{question}\n\nText A: {one.pooled}\n\nText B: {other.pooled}")
        return (p[a].sum() / p[b].sum()).log()

    first = torch.stack([shown_first(one, other) for one, other in zip(ONE, OTHER, strict=True)])
    second = torch.stack([shown_first(other, one) for one, other in zip(ONE, OTHER, strict=True)])
    got = scorer.prefer(ONE, OTHER)
    torch.testing.assert_close(got, (first - second) / 2, atol=1e-4, rtol=1e-4)
    assert got.abs().min() > 1e-3
    assert torch.equal(scorer.prefer(OTHER, ONE), -got)
    bias = scorer.position_bias(ONE, OTHER)
    assert bias == pytest.approx((first + second).mean().item() / 2, abs=1e-4)
    assert scorer.position_bias(OTHER, ONE) == pytest.approx(bias)


def test_a_model_that_always_names_the_first_text_has_a_position_bias_and_no_preference(
    make_lm: MakeLM, judge_of: Callable[..., SelfJudgement]
) -> None:
    script = {"A": always(8), "B": always(2), "Y": always(0), "N": always(0)}
    scorer = judge_of(scripted(make_lm(), script))
    assert scorer.position_bias(ONE, OTHER) == pytest.approx(6, abs=1e-5)
    assert scorer.prefer(ONE, OTHER).abs().max() < 1e-5


def test_a_model_that_says_yes_to_exclamation_marks_ranks_by_them_with_the_sign_of_the_pairs(
    make_lm: MakeLM, judge_of: Callable[..., SelfJudgement], small_sets: dict[str, str], tmp_path: Path
) -> None:
    for side, sign in (("response_creative", 1), ("response_uncreative", -1)):
        marked = tmp_path / f"{side}.jsonl"
        marked.write_text(Path(small_sets["pairs"]).read_text().replace(f'"{side}": "', f'"{side}": "! '))
        lm = make_lm()
        marks = partial(lambda mark, ids: 3.0 * (ids == mark).any(1, keepdim=True), token(lm, "!"))
        scorer = judge_of(scripted(lm, {"Y": marks, "N": always(1)}), pairs=str(marked))
        assert scorer.sign.item() == sign
        scores = scorer.score([Passage("x", "So!"), Passage("x", "So.")])[:, 0]
        torch.testing.assert_close(scores, sign * torch.tensor([2.0, -1.0]).double(), atol=1e-5, rtol=0)


def test_another_concept_is_another_question(make_lm: MakeLM, judge_of: Callable[..., SelfJudgement]) -> None:
    scorer = judge_of(willing(make_lm(), "YyNn"))
    creative = scorer.measure(ONE)
    funny = SelfJudgement(scorer.lm.spec, cache_dir=None, concept="funny")
    funny.extractor, funny.mass, funny._trainer = scorer.extractor, dict(scorer.mass), scorer._trainer
    p = probabilities(scorer.lm, f"Is the following text funny? Reply with Yes or No only.\n\n{ONE[0].pooled}")
    yes, no = ([token(scorer.lm, letter) for letter in letters] for letters in ("Yy", "Nn"))
    assert funny.measure(ONE)[0].item() == pytest.approx(math.log(p[yes].sum() / p[no].sum()), abs=1e-4)
    assert not torch.equal(funny.measure(ONE), creative)
    assert funny.hparams != scorer.hparams


def test_the_model_is_asked_for_what_the_data_are_about(
    make_lm: MakeLM, judge_of: Callable[..., SelfJudgement]
) -> None:
    scorer = judge_of(willing(make_lm(), "YyNn"))
    assert scorer.identity()["concept"] == scorer.concept == "creative"
    scorer.data.concept = "formal"
    assert scorer.identity()["concept"] == scorer.concept == "formal"


def test_the_same_question_is_not_asked_twice_also_not_by_the_next_fold(
    make_lm: MakeLM, judge_of: Callable[..., SelfJudgement]
) -> None:
    scorer = judge_of(willing(make_lm(), "YyNnAaBb"))
    scorer.mass = {CREATIVE: 1.0, MORE_CREATIVE: 1.0}
    assert scorer.prefer(ONE, OTHER).isfinite().all()
    first = scorer.measure(ONE)
    passes = counted(scorer.lm)
    next_fold = SelfJudgement(scorer.lm.spec, cache_dir=None)
    next_fold.extractor, next_fold.mass = scorer.extractor, dict(scorer.mass)
    for again in (scorer, next_fold):
        assert torch.equal(again.measure(ONE), first)
        again.position_bias(OTHER, ONE)
    assert passes == []
    next_fold.extractor = ActivationExtractor(scorer.lm)
    torch.testing.assert_close(next_fold.measure(ONE), first, atol=1e-5, rtol=0)
    assert sum(passes) == len(ONE)


# Texts that are too long


def test_overlong_texts_are_cut_counted_and_reported_and_the_question_stays_whole(
    make_lm: MakeLM, small_sets: dict[str, str], tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    lm = scripted(make_lm(max_tokens=300), {"Y": always(1), "N": always(0)})
    asked: list[Tensor] = []
    forward = lm.model.forward
    lm.model.forward = lambda input_ids, **kwargs: asked.append(input_ids) or forward(input_ids, **kwargs)
    scorer = SelfJudgement(lm.spec, cache_dir=None)
    scorer.extractor = ActivationExtractor(lm)
    fit(scorer, tmp_path, small_sets)
    read = scorer.extractor.reads.truncated
    asked.clear()
    assert scorer.measure([Passage("x", "sea " * 200), Passage("x", "sea")]).isfinite().all()
    long, short = sorted((str(lm.tokenizer.decode(row)).split("<|pad|>")[0] for ids in asked for row in ids), key=len)[
        ::-1
    ]
    for shown in (long, short):
        assert shown.startswith("<|begin|><|user|>Is the following text creative? Reply with Yes or No only.\n\nsea")
        assert shown.endswith("<|end|><|assistant|>")
    assert max(ids.shape[1] for ids in asked) == 300
    assert scorer.extractor.reads.truncated == read + 1
    assert any("in 1 questions a text was cut, to fit into 300 tokens" in str(w.message) for w in recwarn)


def test_strict_refuses_to_cut_a_text_that_a_question_is_about(make_lm: MakeLM) -> None:
    lm, passage = make_lm(max_tokens=300, strict=True), Passage("x", "sea " * 70)
    scorer = SelfJudgement(lm.spec, cache_dir=None)
    scorer.extractor, scorer.mass = ActivationExtractor(lm), {CREATIVE: 1.0}
    assert scorer.extractor([passage]).n_tokens.item() == 280  # short enough to be read, but not inside a question
    with pytest.raises(ProbeError, match=r"question about .* --strict refuses"):
        scorer.measure([passage])


# A model that does not reply


def test_a_model_that_does_not_reply_is_said_so_once_and_asked_no_more(
    make_lm: MakeLM, judge_of: Callable[..., SelfJudgement], recwarn: pytest.WarningsRecorder
) -> None:
    lm = make_lm()
    passes = counted(lm)
    scorer = judge_of(lm)
    n_sampled = min(32, len(scorer.data.rows["train"]))
    assert sum(passes) == n_sampled
    mass = f"{scorer.mass[CREATIVE]:.2f}"
    assert scorer.note == f"not applicable: the model puts {mass} of its probability on the answers Yes or No"
    said = [w for w in recwarn if "not applicable" in str(w.message)]
    assert len(said) == 1
    scores = scorer.score(ONE)
    assert scores.shape == (len(ONE), 1)
    assert scores.isnan().all()
    assert sum(passes) == n_sampled
    assert scorer.prefer(ONE, OTHER).isnan().all()
    assert math.isnan(scorer.position_bias(ONE, OTHER))
    assert sum(passes) == 2 * n_sampled
    assert scorer.note.endswith("on the answers A or B")


def test_the_mass_is_the_mean_probability_of_the_two_answers_together(
    make_lm: MakeLM, judge_of: Callable[..., SelfJudgement]
) -> None:
    for logit, applies in ((0.2, True), (-0.2, False)):  # against one other letter with logit ln 2
        script = {"Y": always(logit), "n": always(logit), "Q": always(math.log(2))}
        scorer = judge_of(scripted(make_lm(), script))
        share = 2 * math.exp(logit)
        assert scorer.mass[CREATIVE] == pytest.approx(share / (share + 2), abs=1e-5)
        assert (scorer.note == "") == applies == scorer.measure(ONE).isfinite().all().item()


def test_what_is_not_applicable_is_a_dash_in_the_table(make_lm: MakeLM, judge_of: Callable[..., SelfJudgement]) -> None:
    scorer = judge_of(make_lm())
    judge = Judge()
    judged = judge.judge(scorer, "validation")
    assert all(math.isnan(columns["score"].value) for columns in judged.evaluation.estimates.values())
    assert not math.isnan(judged.evaluation.estimates["spearman"]["length"].value)
    out = io.StringIO()
    print_table(Terminal(file=out, width=160), scorer, judge, "validation")
    (row,) = [line for line in out.getvalue().splitlines() if line.strip().startswith("score")]
    assert set(row.replace("score (chosen)", "").split()) == {"-"}


def test_the_embedded_model_never_learned_to_reply(small_sets: dict[str, str]) -> None:
    # Its stories may begin with "A", which must not pass for an answer.
    scorer = SelfJudgement(LMSpec(str(ROOT / "data/storyteller/lm0"), device="cpu"))
    scorer.extractor = ActivationExtractor(FrozenLM.load(scorer.lm_spec))
    data = ContrastData(**small_sets)
    data.setup("fit")
    scorer._trainer = SimpleNamespace(datamodule=data)
    with pytest.warns(UserWarning, match="not applicable"):
        assert scorer.measure(ONE).isnan().all()
        assert scorer.prefer(ONE, OTHER).isnan().all()
    assert scorer.mass[CREATIVE] < 0.05
    assert scorer.mass[MORE_CREATIVE] < 0.05
