import re
from pathlib import Path

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from probe.data import ContrastData
from probe.errors import ProbeError
from probe.lm import FrozenLM
from probe.reporting import RunReport
from probe.scorers import MeanDifference
from probe.spec import LMSpec
from probe.steering import SteeredText, SteeringCallback, sample_table, steer


@pytest.fixture(scope="module")
def steered(
    tiny_lm_folder: Path, small_sets: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> tuple[MeanDifference, SteeringCallback, Path]:
    folder = tmp_path_factory.mktemp("steered")
    scorer = MeanDifference(LMSpec(str(tiny_lm_folder), device="cpu"), cache_dir=None)
    callback = SteeringCallback((1.0, 4.0), n_prompts=2, max_new_tokens=12, witness="storyteller")
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


def test_strength_zero_is_bit_equal_to_no_steering(tiny_lm: FrozenLM) -> None:
    prompts = ["Write a story.", "Tell me of a lamp."]
    deltas = torch.zeros(2, tiny_lm.hidden_size)
    assert steer(tiny_lm, prompts, deltas, 1, 10, 0.8, seed=3) == tiny_lm.generate(prompts, 10, 0.8, seed=3)
    assert steer(tiny_lm, prompts, deltas + 50, 1, 10, 0.8, seed=3) != tiny_lm.generate(prompts, 10, 0.8, seed=3)


def test_each_prompt_is_shown_unsteered_and_at_every_strength(steered: tuple) -> None:
    _, callback, _ = steered
    assert sorted({s.strength for s in callback.samples}) == [0.0, 1.0, 4.0]
    assert len(callback.samples) == 6
    assert all(s.extra_nll == 0 for s in callback.samples if s.strength == 0)


def test_prompts_are_uncreative_and_the_rescoring_direction_comes_from_other_groups(steered: tuple) -> None:
    scorer, callback, _ = steered
    rows = scorer.data.rows["validation"]
    group_of = {r.prompt: r.group for r in rows if r.pair >= 0 and r.truth == 0}
    used = {group_of[s.prompt] for s in callback.samples}
    left = {r.group for r in rows if r.pair >= 0} - used
    assert left
    assert not used & {r.group for r in scorer.data.rows["train"]}
    column = scorer.extractor.layers.index(scorer.chosen_layer)
    h = scorer.features["validation"].mean[:, column]
    keep = [i for i, r in enumerate(rows) if r.pair >= 0 and r.group in left]
    y = np.array([rows[i].truth for i in keep])
    difference = h[keep][y == 1].mean(0) - h[keep][y == 0].mean(0)
    ours = callback._other_direction(scorer, used)
    assert float(torch.cosine_similarity(ours, difference, dim=0)) == pytest.approx(1, abs=1e-5)
    assert callback.cosine == pytest.approx(float(ours @ scorer.direction().at(scorer.chosen_layer)), abs=1e-5)


def test_steered_text_is_scored_on_a_clean_forward(steered: tuple) -> None:
    scorer, callback, _ = steered
    sample = next(s for s in callback.samples if s.strength == 4 and s.text)
    used = {r.group for r in scorer.data.rows["validation"] if r.prompt in {s.prompt for s in callback.samples}}
    other = callback._other_direction(scorer, used)
    prefix = scorer.lm.tokenizer(scorer.lm.render(sample.prompt), add_special_tokens=False).input_ids
    ids = torch.tensor([prefix + scorer.lm.tokenizer(sample.text, add_special_tokens=False).input_ids])
    states = scorer.lm.model(ids, output_hidden_states=True).hidden_states[sample.layer + 1][0, len(prefix) :]
    if sample.layer + 1 < scorer.lm.n_layers:  # the last entry is after the final norm
        expected = torch.cosine_similarity(states, other, dim=-1).mean()
        assert sample.score == pytest.approx(float(expected), abs=1e-4)


def test_the_model_carries_no_hook_after_the_run(steered: tuple) -> None:
    scorer, _, _ = steered
    hooks = [hook for module in scorer.lm.model.modules() for hook in module._forward_hooks.values()]
    assert not [hook for hook in hooks if hook.__module__.startswith("probe")]  # HF installs some of its own


def test_steering_changes_neither_the_training_nor_the_random_state(
    tiny_lm_folder: Path, small_sets: dict[str, str], steered: tuple, tmp_path: Path
) -> None:
    plain = MeanDifference(LMSpec(str(tiny_lm_folder), device="cpu"), cache_dir=None)
    trainer = L.Trainer(
        accelerator="cpu", max_epochs=1, num_sanity_val_steps=0, logger=False, default_root_dir=tmp_path,
        enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
    )  # fmt: skip
    trainer.fit(plain, datamodule=ContrastData(**small_sets))
    assert torch.equal(plain.weight, steered[0].weight)


def test_tensorboard_holds_curves_samples_figures_and_histograms(steered: tuple) -> None:
    events = EventAccumulator(str(steered[2]), size_guidance={"tensors": 0}).Reload()
    tags = events.Tags()
    assert {"val/layers/spearman", "val/layers/length", "val/scores", "steer/curves/score"} <= set(tags["images"])
    assert {"val/scores_lower_half", "val/scores_upper_half"} <= set(tags["histograms"])
    assert {"val/spearman", "steer/score/strength_4", "steer/inventive_share/strength_0"} <= set(tags["scalars"])
    assert {"val/spearman/layer_0", "val/length/bag_of_words"} <= set(tags["scalars"])
    table = events.Tensors("steer/samples/text_summary")[-1].tensor_proto.string_val[0].decode()
    assert len(table.splitlines()) == 2 + 2  # a row per prompt, a column per strength


def test_model_text_cannot_break_out_of_its_table_cell() -> None:
    text = "a | b\n<script>alert(1)</script> & [x](javascript:y)"
    table = sample_table([SteeredText("p|q", 1.0, text, 0.1, 0.2, 0, 0)])
    row = table.splitlines()[-1]
    assert len(table.splitlines()) == 3
    assert row.count("|") == 3
    assert "<script>" not in row
    assert re.search("&lt;script&gt;", row)


def test_a_strength_that_is_no_number_is_refused() -> None:
    with pytest.raises(ProbeError, match="finite"):
        SteeringCallback(strengths=(float("nan"),))
