import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny import n_hooks

from probe.data.reading import Passage
from probe.data.splits import ContrastData
from probe.errors import ProbeError
from probe.lm.frozen import FrozenLM
from probe.lm.operators import OPERATORS
from probe.lm.spec import LMSpec, Tokens
from probe.lm.writer import Written
from probe.scorers import MeanDifference
from probe.steering.arms import Arm, steered, write
from probe.steering.callback import SteeringCallback
from probe.steering.measuring import Readers, SteeredText, measure
from probe.steering.samples import sample_table
from probe.steering.settings import Sampling
from probe.verbs.fit.report import RunReport


@pytest.fixture(scope="module")
def run(
    tiny_lm_folder: Path, small_sets: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> tuple[MeanDifference, SteeringCallback, Path]:
    folder = tmp_path_factory.mktemp("steered")
    scorer = MeanDifference(LMSpec(str(tiny_lm_folder), device="cpu"), cache_dir=None)
    callback = SteeringCallback(
        strengths=[1.0, 4.0], strength_unit="gap", n_prompts=2, n_random=5, max_new_tokens=12, witness="storyteller"
    )
    trainer = L.Trainer(
        accelerator="cpu",
        max_epochs=1,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        logger=TensorBoardLogger(folder, default_hp_metric=False),
        callbacks=[callback, RunReport()],
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=1,
    )
    trainer.fit(scorer, datamodule=ContrastData(**small_sets))
    return scorer, callback, Path(trainer.log_dir)


PROMPTS = ["Write a story.", "Tell me of a lamp.", "Sing of the long sea road that nobody walks."]
DELTA = torch.randn(32, generator=torch.Generator().manual_seed(0))
UNIT = DELTA / DELTA.norm()


def unknown(texts: Sequence[str]) -> list[Written]:
    """Texts of which nobody knows how surprised their writer was."""
    return [Written(text, math.nan) for text in texts]


def test_strength_zero_is_bit_equal_to_no_steering(tiny_lm: FrozenLM) -> None:
    ids = torch.tensor([[1, 20, 30, 40], [1, 50, 60, 70]])
    plain = tiny_lm.model(ids).logits
    zero = Arm("zero", dict.fromkeys(range(3), torch.zeros(32)))
    with steered(tiny_lm, [zero, zero], "all"):
        assert torch.equal(tiny_lm.model(ids).logits, plain)
    for temperature in (0.0, 0.8):
        how = Sampling(10, temperature, seed=3)
        unsteered = tiny_lm.generate(PROMPTS, 10, temperature, seed=3)
        assert write(tiny_lm, [(p, zero) for p in PROMPTS], how) == unsteered
        assert write(tiny_lm, [(p, Arm("none")) for p in PROMPTS], how) == unsteered
        assert write(tiny_lm, [(p, Arm("far", {1: 50 * DELTA})) for p in PROMPTS], how) != unsteered


@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize("tokens", ["all", "prompt", "generated"])
def test_arms_written_together_are_the_same_texts_as_one_at_a_time(
    tiny_lm: FrozenLM, temperature: float, tokens: Tokens
) -> None:
    arms = [
        Arm("none"),
        Arm("one layer", {1: DELTA}),
        Arm("two layers", {0: -DELTA, 2: DELTA}),
        Arm("strong", {1: 3 * DELTA}),
        *(Arm(name, {0: DELTA, 1: -2 * DELTA}, operator=name) for name in OPERATORS),
        Arm("hot", temperature=5.0),
        Arm("asked otherwise", asks={PROMPTS[0]: PROMPTS[2]}),
    ]
    asked = [(prompt, arm) for arm in arms for prompt in PROMPTS]
    how = Sampling(12, temperature, seed=1, tokens=tokens)
    together = write(tiny_lm, asked, how)
    assert together == [write(tiny_lm, [one], how)[0] for one in asked]
    assert together == write(tiny_lm, asked, replace(how, rows=5))
    by_arm = {arm.name: together[i * 3 : i * 3 + 3] for i, arm in enumerate(arms)}
    assert by_arm["asked otherwise"] == [by_arm["none"][i] for i in (2, 1, 2)]
    assert by_arm["hot"] == tiny_lm.generate(PROMPTS, 12, 5.0, seed=1)
    assert [name for name, texts in by_arm.items() if texts == by_arm["none"]] == ["none"]


def test_a_text_is_measured_after_its_prompt_whatever_the_model_was_asked(tiny_lm: FrozenLM) -> None:
    otherwise = Arm("asked otherwise", asks={PROMPTS[0]: PROMPTS[2]})
    asked = [(PROMPTS[0], Arm("none")), (PROMPTS[0], otherwise)]
    texts = write(tiny_lm, asked, Sampling(12))
    plain, found = measure(tiny_lm, asked, unknown(texts), Sampling(12), Readers(1, UNIT))
    nll = tiny_lm.nll(
        [Passage(p, t) for p, t in [(PROMPTS[0], texts[0]), (PROMPTS[0], texts[1]), (PROMPTS[2], texts[1])]]
    )
    assert found.extra_nll == pytest.approx(float(nll[1] - nll[0]), abs=1e-5)
    assert found.kl == pytest.approx(float(nll[1] - nll[2]), abs=1e-5)
    assert abs(found.kl) > 0.01
    assert (plain.kl, plain.extra_nll) == (0, 0)
    same = measure(tiny_lm, [(PROMPTS[0], Arm("none"))], unknown(texts[1:]), Sampling(12), Readers(1, UNIT))[0]
    assert found.score == pytest.approx(same.score, abs=1e-6)


def test_kl_is_what_the_steered_model_gives_its_own_text_above_the_clean_one(tiny_lm: FrozenLM) -> None:
    arms = [Arm("none"), Arm("weak", {1: 0.5 * DELTA}, 0.5), Arm("strong", {1: 2 * DELTA}, 2.0)]
    asked = [(prompt, arm) for arm in arms for prompt in PROMPTS]
    for tokens in ("all", "generated", "prompt"):
        how = Sampling(16, 1.0, tokens=tokens)
        texts = write(tiny_lm, asked, how)
        found = measure(tiny_lm, asked, unknown(texts), how, Readers(1, DELTA / DELTA.norm()))
        for sample, (prompt, arm), text in zip(found, asked, texts, strict=True):
            (encoded,) = tiny_lm.encoder.encode([Passage(prompt, text)])
            ids, inside = torch.tensor([encoded.ids]), torch.tensor([encoded.pooled])

            def of_text(logits: torch.Tensor, ids: torch.Tensor = ids, inside: torch.Tensor = inside) -> torch.Tensor:
                told = logits[0, :-1].log_softmax(-1).gather(1, ids[0, 1:, None])[:, 0]
                return told[inside[0, 1:]].mean()

            clean = of_text(tiny_lm.model(ids).logits)
            where = {"all": "all", "generated": inside.long(), "prompt": 1 - inside.long()}[tokens]
            with steered(tiny_lm, [arm], where):
                own = of_text(tiny_lm.model(ids).logits)
            assert sample.kl == pytest.approx(float(own - clean), abs=1e-4)
        by_arm = {arm.name: np.mean([s.kl for s in found if s.arm == arm.name]) for arm in arms}
        assert by_arm["none"] == pytest.approx(0, abs=1e-6)
        assert by_arm["strong"] > max(0.0, by_arm["weak"])


def test_no_hook_is_left_when_writing_fails(make_lm) -> None:
    lm = make_lm()
    before = n_hooks(lm.model)
    with pytest.raises(RuntimeError):
        write(lm, [(PROMPTS[0], Arm("wrong width", {1: torch.ones(31)}))], Sampling(4))
    with pytest.raises(KeyboardInterrupt), steered(lm, [Arm("a", {0: DELTA})], "all"):
        raise KeyboardInterrupt
    assert n_hooks(lm.model) == before


def test_each_prompt_is_shown_unsteered_and_at_every_strength(run: tuple) -> None:
    _, callback, _ = run
    assert sorted({s.strength for s in callback.samples}) == [0.0, 1.0, 4.0]
    assert len(callback.samples) == 6
    assert all(s.extra_nll == 0 for s in callback.samples if s.strength == 0)
    assert len(callback.random) == 5
    assert all(len(arm) == 4 and {s.strength for s in arm} == {1.0, 4.0} for arm in callback.random)


def test_prompts_are_uncreative_and_the_rescoring_direction_comes_from_other_groups(run: tuple) -> None:
    scorer, callback, _ = run
    rows = scorer.data.rows["validation"]
    group_of = {r.prompt: r.group for r in rows if r.side == "uncreative"}
    used = {group_of[s.prompt] for s in callback.samples}
    left = {r.group for r in rows if r.side} - used
    assert left
    assert not used & {r.group for r in scorer.data.rows["train"]}
    column = scorer.extractor.layers.index(scorer.chosen_layer)
    h = scorer.features["validation"].pooled("mean")[:, column]
    keep = [i for i, r in enumerate(rows) if r.side and r.group in left]
    y = np.array([rows[i].truth for i in keep])
    difference = h[keep][y == 1].mean(0) - h[keep][y == 0].mean(0)
    ours = callback._other_direction(scorer, used)
    assert float(torch.cosine_similarity(ours, difference, dim=0)) == pytest.approx(1, abs=1e-5)
    assert callback.cosine == pytest.approx(float(ours @ scorer.direction().at(scorer.chosen_layer)), abs=1e-5)


def test_steered_text_is_scored_on_a_clean_forward(run: tuple) -> None:
    scorer, callback, _ = run
    sample = next(s for s in callback.samples if s.strength == 4 and s.text)
    used = {r.group for r in scorer.data.rows["validation"] if r.prompt in {s.prompt for s in callback.samples}}
    other = callback._other_direction(scorer, used)
    prefix = scorer.lm.tokenizer(scorer.lm.encoder.render(sample.prompt), add_special_tokens=False).input_ids
    ids = torch.tensor([prefix + scorer.lm.tokenizer(sample.text, add_special_tokens=False).input_ids])
    states = scorer.lm.model(ids, output_hidden_states=True).hidden_states[callback.layer + 1][0, len(prefix) :]
    if callback.layer + 1 < scorer.lm.n_layers:  # the last entry is after the final norm
        expected = torch.cosine_similarity(states, other, dim=-1).mean()
        assert sample.score == pytest.approx(float(expected), abs=1e-4)


def test_the_model_carries_no_hook_after_the_run(run: tuple) -> None:
    scorer, _, _ = run
    hooks = [hook for module in scorer.lm.model.modules() for hook in module._forward_hooks.values()]
    assert not [hook for hook in hooks if hook.__module__.startswith("probe")]  # HF installs some of its own


def test_steering_changes_neither_the_training_nor_the_random_state(
    tiny_lm_folder: Path, small_sets: dict[str, str], run: tuple, tmp_path: Path
) -> None:
    plain = MeanDifference(LMSpec(str(tiny_lm_folder), device="cpu"), cache_dir=None)
    trainer = L.Trainer(
        accelerator="cpu", max_epochs=1, num_sanity_val_steps=0, logger=False, default_root_dir=tmp_path,
        enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
    )  # fmt: skip
    trainer.fit(plain, datamodule=ContrastData(**small_sets))
    assert torch.equal(plain.weight, run[0].weight)


def test_tensorboard_holds_curves_samples_figures_and_histograms(run: tuple) -> None:
    events = EventAccumulator(str(run[2]), size_guidance={"tensors": 0}).Reload()
    tags = events.Tags()
    assert {"val/layers/spearman", "val/layers/length", "val/scores", "steer/other_measures"} <= set(tags["images"])
    assert min(tags["images"]) == "result/steering"  # TensorBoard sorts by name
    pictures = {path.name for path in (run[2] / "figures").glob("*.png")}
    assert pictures == {f"{tag.replace('/', '-')}.png" for tag in tags["images"]}, (
        "who has no TensorBoard sees them too"
    )
    assert {"val/scores_lower_half", "val/scores_upper_half"} <= set(tags["histograms"])
    assert set(tags["scalars"]) <= {"val/spearman", "val/chosen_layer", "epoch"}  # one epoch gives points, no curves
    numbers = events.Tensors("val/table/text_summary")[-1].tensor_proto.string_val[0].decode()
    assert {"layer 0", "bag of words"} <= {line.split("|")[1].strip() for line in numbers.splitlines()[2:]}
    # The witness can read nothing that a random model writes, so it cannot say which way that moved.
    assert run[1].curves()["moved_wrong"][4.0].n == 0
    table = events.Tensors("steer/samples/text_summary")[-1].tensor_proto.string_val[0].decode()
    assert len(table.splitlines()) == 2 + 2 * 2  # per prompt its own row and one of texts, a column per strength


def test_model_text_cannot_break_out_of_its_table_cell() -> None:
    text = "a | b\n<script>alert(1)</script> & [x](javascript:y)"
    table = sample_table([SteeredText("p|q", "direction", 1.0, text, 0.1, 0.2, 0.3, 0.0, 0)])
    asked, row = table.splitlines()[-2:]
    assert len(table.splitlines()) == 4
    assert asked.count("|") == row.count("|") == 2
    assert "&#60;script>" in row


def test_no_kind_of_line_break_ends_a_row_of_the_table() -> None:
    text = "a\r\r# big\u2028b\x0bc\nd"
    table = sample_table([SteeredText("p", "direction", 1.0, text, 0.1, 0.2, 0.3, 0.0, 0)])
    assert len(table.splitlines()) == 4
    assert "a<br><br>&#35; big<br>b<br>c<br>d" in table


def test_a_strength_that_is_no_number_is_refused() -> None:
    with pytest.raises(ProbeError, match="finite"):
        SteeringCallback(strengths=(float("nan"),))
