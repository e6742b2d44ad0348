"""The writer learns the creative stories; how much of it is used can be said, and without it the LM is the frozen one."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import lightning as L
import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from peft import PeftModel
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny import build_model

from probe.activations.extractor import ActivationExtractor
from probe.data.reading import Passage
from probe.data.splits import ContrastData
from probe.errors import ProbeError
from probe.lm.frozen import FrozenLM
from probe.lm.spec import LMSpec
from probe.lm.writer import Written
from probe.scorers import LoRAProbe, LoRAScorer, LoRAWriter
from probe.steering.arms import Arm, write
from probe.steering.callback import SteeringCallback
from probe.steering.measuring import Readers, measure
from probe.steering.settings import Sampling
from probe.verbs.fit.report import RunReport

PROMPTS = ["Write a story.", "Tell me of a lamp."]
Run = tuple[LoRAScorer, SteeringCallback, list[float], Path]


def fit(kind: type[LoRAScorer], lm: FrozenLM, sets: dict[str, str], folder: Path, steer: bool = True) -> Run:
    L.seed_everything(0, verbose=False)
    scorer = kind(LMSpec(device="cpu"), lr=0.01)
    scorer.extractor = ActivationExtractor(lm)
    callback = SteeringCallback(
        strengths=[0.5, 1.0], n_prompts=2 * steer, max_new_tokens=8, n_random=2, witness="storyteller"
    )
    losses: list[float] = []

    class Diary(L.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
            losses.append(float(outputs["loss"]))

    trainer = L.Trainer(
        accelerator="cpu",
        max_epochs=2,
        logger=TensorBoardLogger(folder, default_hp_metric=False),
        callbacks=[callback, RunReport(), Diary()],
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        log_every_n_steps=1,
    )
    trainer.fit(scorer, datamodule=ContrastData(**sets, batch_size=8))
    return scorer, callback, losses, Path(str(trainer.log_dir))


@pytest.fixture(scope="module", params=[LoRAWriter, LoRAProbe])
def run(
    request: pytest.FixtureRequest,
    make_lm: Callable[..., FrozenLM],
    small_sets: dict[str, str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Run:
    return fit(request.param, make_lm(), small_sets, tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def writer(make_lm: Callable[..., FrozenLM], small_sets: dict[str, str], tmp_path_factory) -> Run:
    return fit(LoRAWriter, make_lm(), small_sets, tmp_path_factory.mktemp("writer"), steer=False)


def test_the_loss_is_the_mean_nll_of_the_creative_story_after_the_rows_own_prompt(
    writer: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    scorer, _, losses, _ = writer
    monkeypatch.setattr(scorer, "log", lambda *_, **__: None)
    rows = scorer.data.rows["train"]
    batch = {"row": torch.tensor([0, 1, 5, 5]), "label": torch.tensor([1, 0, 0, -1])}
    story_of = {row.pair: row.response for row in rows if row.truth == 1}
    with torch.no_grad():
        found = scorer.training_step(batch, 0)
    expected = scorer.lm.nll([Passage(rows[i].prompt, story_of[rows[i].pair]) for i in (0, 1, 5)]).mean()
    assert float(found) == pytest.approx(float(expected), abs=1e-5)
    assert losses[-1] < losses[0] - 0.5


def test_it_finds_creative_stories_likelier_than_the_frozen_model_does_and_the_score_says_how_much(
    writer: Run, make_lm: Callable[..., FrozenLM]
) -> None:
    scorer = writer[0]
    passages = [row.passage("response") for row in scorer.data.rows["validation"]][:12]
    expected = make_lm().nll(passages) - scorer.lm.nll(passages)
    torch.testing.assert_close(scorer.score(passages)[:, 0], expected, atol=1e-5, rtol=0)
    assert (expected > 0).all()


def test_every_block_is_adapted_and_only_creative_stories_were_learned(writer: Run) -> None:
    scorer = writer[0]
    assert all(p.abs().sum() > 0 for name, p in scorer.adapters.items() if "lora_B" in name)
    assert {name.partition("layers/")[2][0] for name in scorer.adapters} == {"0", "1", "2"}
    learned = {t for text in scorer._encoded for t in [tuple(text.ids)]}
    rows = scorer.data.rows["train"]
    dull = scorer.lm.encoder.encode([row.passage("response") for row in rows if row.truth == 0])
    assert not learned & {tuple(text.ids) for text in dull}


def test_how_much_of_the_adapter_is_used_can_be_said_and_none_is_bit_by_bit_the_frozen_model(
    writer: Run, make_lm: Callable[..., FrozenLM]
) -> None:
    lm, frozen = writer[0].lm, make_lm()
    ids = torch.tensor([[1, 20, 30, 40]])
    with torch.no_grad():
        plain, whole = frozen.model(ids).logits, lm.model(ids).logits
        with lm.adapted(0):
            assert torch.equal(lm.model(ids).logits, plain)
        with lm.adapted(1):
            assert torch.equal(lm.model(ids).logits, whole)
        with pytest.raises(KeyboardInterrupt), lm.adapted(0.5):
            half = lm.model(ids).logits
            raise KeyboardInterrupt
        assert torch.equal(lm.model(ids).logits, whole)
    # Half of each B is half of each adapter's output.
    for name, parameter in writer[0].adapters.items():
        parameter.data.mul_(0.5 if "lora_B" in name else 1)
    with torch.no_grad():
        torch.testing.assert_close(lm.model(ids).logits, half, atol=1e-5, rtol=1e-5)
    for name, parameter in writer[0].adapters.items():
        parameter.data.mul_(2 if "lora_B" in name else 1)


def test_arms_of_an_adapter_are_written_and_measured_beside_others_as_alone(
    writer: Run, make_lm: Callable[..., FrozenLM]
) -> None:
    lm = writer[0].lm
    delta = torch.randn(32, generator=torch.Generator().manual_seed(0))
    arms = [Arm("none"), Arm("half", adapter=0.5), Arm("steered", {1: delta}), Arm("both", {1: delta}, adapter=1.0)]
    asked = [(prompt, arm) for arm in arms for prompt in PROMPTS]
    how = Sampling(10)
    texts = write(lm, asked, how)
    assert texts == [write(lm, [one], how)[0] for one in asked]
    unread, readers = [Written(text, math.nan) for text in texts], Readers(1, delta / delta.norm())
    found = measure(lm, asked, unread, how, readers)
    alone = [
        sample
        for i in range(0, len(asked), 2)
        for sample in measure(lm, asked[i : i + 2], unread[i : i + 2], how, readers)
    ]
    for one, other in zip(found, alone, strict=True):
        assert one.kl == pytest.approx(other.kl, abs=1e-5)
        assert one.score == pytest.approx(other.score, abs=1e-5)
    frozen = measure(make_lm(), [(p, Arm("none")) for p, _ in asked], unread, how, readers)
    assert [s.score for s in found] == pytest.approx([s.score for s in frozen], abs=1e-5)
    passage = [Passage(PROMPTS[0], texts[2])]
    with lm.adapted(0):
        clean = lm.nll(passage)
    with lm.adapted(0.5):
        assert found[2].kl == pytest.approx(float(clean - lm.nll(passage)), abs=1e-5)
    assert len(set(texts)) > 4


def test_samples_of_a_lora_under_training_come_from_its_adapter_and_change_neither_training_nor_weights(
    run: Run, make_lm: Callable[..., FrozenLM], small_sets: dict[str, str], tmp_path: Path
) -> None:
    scorer, callback, losses, folder = run
    assert sorted({s.strength for s in callback.samples}) == [0.0, 0.5, 1.0]
    assert callback.random == []
    frozen = make_lm()
    for sample in callback.samples:
        if sample.strength == 0:
            assert sample.text == frozen.generate([sample.prompt], 8, 0.8, 0)[0]
    assert any(s.kl != 0 for s in callback.samples if s.strength)
    assert -1 <= callback.cosine <= 1
    tags = EventAccumulator(str(folder), size_guidance={"tensors": 0}).Reload().Tags()
    assert {"result/steering", "steer/other_measures"} <= set(tags["images"])
    assert "steer/kl" in tags["scalars"]
    assert "steer/samples/text_summary" in tags["tensors"]
    assert fit(type(scorer), make_lm(), small_sets, tmp_path, steer=False)[2] == losses


def test_plain_peft_reads_what_was_saved_and_after_release_the_model_is_the_frozen_one(
    writer: Run, make_lm: Callable[..., FrozenLM], tmp_path: Path
) -> None:
    scorer = writer[0]
    ids = torch.tensor([[1, 20, 30, 40]])
    folder = scorer.save_pretrained(tmp_path / "adapter")
    assert {f.name for f in folder.iterdir()} >= {"adapter_config.json", "adapter_model.safetensors", "adapter.json"}
    plain = PeftModel.from_pretrained(build_model(), folder)
    with torch.no_grad():
        torch.testing.assert_close(plain(ids).logits, scorer.lm.model(ids).logits, atol=1e-5, rtol=1e-5)
        scorer.release()
        assert torch.equal(scorer.lm.model(ids).logits, make_lm().model(ids).logits)
    assert scorer.lm.adapter is None


def test_pairs_without_stories_are_refused_before_anything_is_read(
    make_lm: Callable[..., FrozenLM], small_sets: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bare = tmp_path / "pairs.jsonl"
    rows = [json.loads(line) for line in Path(small_sets["pairs"]).read_text().splitlines()]
    bare.write_text("".join(json.dumps({k: r[k] for k in ("creative", "uncreative", "group")}) + "\n" for r in rows))
    monkeypatch.setattr(ActivationExtractor, "__call__", lambda *_, **__: pytest.fail("something was read"))
    with pytest.raises(ProbeError, match="LoRAWriter learns from stories"):
        fit(LoRAWriter, make_lm(), small_sets | {"pairs": str(bare)}, tmp_path, steer=False)
