import json
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from peft import PeftModel
from safetensors.torch import load_file
from tiny import ARCHITECTURES, HYBRIDS, build_model
from transformers import PreTrainedTokenizerFast

from probe.activations.extractor import ActivationExtractor
from probe.activations.store import ActivationStore
from probe.data.reading import Passage
from probe.data.splits import ContrastData
from probe.errors import ProbeError
from probe.lm import adapters
from probe.lm.frozen import FrozenLM
from probe.lm.spec import LMSpec
from probe.scorers import LoRAProbe, MeanDifference, Scorer
from probe.scorers.abilities import HasShift

STORIES = [Passage("Tell me a story.", text) for text in ("The lamp swam.", "The lamp stood in the hall.", "A fish.")]
WIDTH, LAYER = 32, 1
pytestmark = pytest.mark.filterwarnings("ignore:.*dirpath has changed.*", "ignore:.*callbacks used to create.*")


class Diary(Callback):
    """What happened in each step and after each epoch."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.rho: list[float] = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx) -> None:
        if outputs:
            self.losses.append(float(outputs["loss"]))

    def on_validation_end(self, trainer, pl_module) -> None:
        self.rho.append(float(trainer.callback_metrics.get("val/spearman_of_epoch", torch.nan)))


def fit(
    scorer: Scorer,
    sets: dict[str, str],
    folder: Path,
    epochs: int = 1,
    ckpt: Path | None = None,
    precision: Any = "32-true",
) -> Diary:
    L.seed_everything(0, verbose=False)
    diary = Diary()
    trainer = L.Trainer(
        accelerator="cpu",
        max_epochs=epochs,
        logger=False,
        callbacks=[ModelCheckpoint(folder, filename="{epoch}", save_top_k=-1), diary],
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        precision=precision,
    )
    trainer.fit(scorer, datamodule=ContrastData(**sets, batch_size=8), ckpt_path=ckpt)
    return diary


def probe_of(
    lm: FrozenLM, layer: int | None = LAYER, lr: float = 0.01, store: ActivationStore | None = None, rank: int = 8
) -> LoRAProbe:
    """A probe of an LM that it shares with others, as in a tournament."""
    scorer = LoRAProbe(LMSpec(device="cpu"), layer=layer, lr=lr, rank=rank)
    scorer.extractor = ActivationExtractor(lm, scorer.wanted_layers, store)
    return scorer


def logits(lm: FrozenLM) -> torch.Tensor:
    with torch.no_grad():
        return lm.model(torch.tensor([lm.encoder.encode(STORIES)[1].ids])).logits


@pytest.fixture(scope="module")
def frozen(make_lm: Callable[..., FrozenLM]) -> FrozenLM:
    """The LM as it was before any training."""
    return make_lm()


@pytest.fixture(scope="module")
def run(
    make_lm: Callable[..., FrozenLM], small_sets: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> tuple[LoRAProbe, Diary, Path]:
    """A probe fitted for four epochs at layer 1 of three, its diary and its checkpoints; leave it as you found it."""
    folder = tmp_path_factory.mktemp("run")
    scorer = probe_of(make_lm())
    return scorer, fit(scorer, small_sets, folder, epochs=4), folder


@pytest.fixture
def fitted(run: tuple[LoRAProbe, Diary, Path]) -> LoRAProbe:
    return run[0]


# -- what is trained --------------------------------------------------------------------------------------------


def test_training_lowers_the_loss_and_leaves_every_frozen_weight_as_it_was(
    run: tuple[LoRAProbe, Diary, Path], frozen: FrozenLM
) -> None:
    scorer, diary, _ = run
    assert diary.losses[0] == pytest.approx(torch.tensor(2.0).log().item(), abs=1e-6)  # the head begins at zero
    assert max(diary.losses[-3:]) < 0.65
    now = {n.replace("base_layer.", ""): t for n, t in scorer.lm.model.state_dict().items() if "lora_" not in n}
    before = frozen.model.state_dict()
    assert now.keys() == before.keys()
    assert all(torch.equal(now[name], before[name]) for name in before)
    assert all(p.abs().sum() > 0 for name, p in scorer.adapters.items() if "lora_B" in name)


@pytest.mark.parametrize("architecture", sorted(set(ARCHITECTURES) - {"mamba"}))
def test_the_gradient_reaches_every_adapter_and_nothing_else_in_any_architecture(
    make_lm: Callable[..., FrozenLM], architecture: str
) -> None:
    lm = make_lm(architecture)
    with warnings.catch_warnings(action="error"):
        peft = adapters.adapt(lm, LAYER, 4, 8)
    encoded = lm.encoder.encode(STORIES)
    ActivationExtractor(lm, [LAYER]).states(encoded, [2, 0]).square().sum().backward()
    learned = {name: p for name, p in peft.named_parameters() if "lora_" in name}
    # The second factor begins at zero, so the first one's gradient is zero, but there.
    assert all(p.grad is not None and (("lora_A" in name) or p.grad.any()) for name, p in learned.items())
    assert all(p.grad is None for name, p in peft.named_parameters() if name not in learned)
    of_block = [{id(p) for p in block.parameters()} & {id(p) for p in learned.values()} for block in lm.blocks]
    assert all(of_block[: LAYER + 1])
    assert not any(of_block[LAYER + 1 :])


def test_where_queries_and_values_have_unknown_names_every_linear_layer_is_adapted(
    tiny_tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapters, "QUERY_AND_VALUE", set())
    # 21 layers of 35: from 20 on PEFT shortens their names, and must not hit those of later blocks.
    lm = FrozenLM(build_model(num_hidden_layers=5), tiny_tokenizer)
    adapters.adapt(lm, 2, 4, 8)
    adapted = {name.removesuffix(".lora_A") for name, _ in lm.model.named_modules() if name.endswith("lora_A")}
    attention, mlp = ("q_proj", "k_proj", "v_proj", "o_proj"), ("gate_proj", "up_proj", "down_proj")
    names = [f"self_attn.{name}" for name in attention] + [f"mlp.{name}" for name in mlp]
    assert adapted == {f"model.layers.{k}.{name}" for k in range(3) for name in names}


@pytest.mark.parametrize("architecture", ["mamba", *HYBRIDS])
def test_in_a_hybrid_every_block_up_to_the_layer_is_adapted_and_learns(
    make_lm: Callable[..., FrozenLM], architecture: str
) -> None:
    lm = make_lm(architecture)
    peft = adapters.adapt(lm, 2, 4, 8)
    ActivationExtractor(lm, [2]).states(lm.encoder.encode(STORIES), [2, 0]).square().sum().backward()
    assert sorted(adapters.places(lm)) == [0, 1, 2]
    assert all(p.grad is not None and p.grad.any() for name, p in peft.named_parameters() if "lora_B" in name)
    assert {"q_proj", "v_proj"} in map(set, adapters.places(lm).values()) or architecture == "mamba"
    assert not {"out_proj", "dt_proj", "gate_proj"} & {name for k in (0, 1) for name in adapters.places(lm)[k]}


def test_blocks_that_cannot_be_adapted_are_refused(make_lm: Callable[..., FrozenLM]) -> None:
    lm = make_lm()
    lm.blocks[1] = torch.nn.Identity()
    with pytest.raises(ProbeError, match=r"found none in block 1; use another scorer for this model"):
        adapters.adapt(lm, 2, 4, 8)
    with pytest.raises(ProbeError, match=r"PEFT cannot adapt .* correct the rank"):
        adapters.adapt(make_lm(), LAYER, 0, 8)


def test_the_loss_is_the_log_loss_of_the_scores_and_rows_that_only_pad_a_batch_do_not_change_it(
    fitted: LoRAProbe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fitted, "log", lambda *_, **__: None)

    def loss(rows: list[int], labels: list[int]) -> torch.Tensor:
        return fitted.training_step({"row": torch.tensor(rows), "label": torch.tensor(labels)}, 0)

    torch.testing.assert_close(loss([4, 0, 1, 0], [-1, 1, 0, -1]), loss([0, 1], [1, 0]))
    scores = fitted.score([fitted.data.rows["train"][row].passage("response") for row in (0, 1)])[:, 0]
    expected = torch.nn.functional.binary_cross_entropy_with_logits(scores, torch.tensor([1.0, 0.0]))
    torch.testing.assert_close(loss([0, 1], [1, 0]), expected, atol=1e-5, rtol=1e-4)
    assert loss([0, 0], [-1, -1]) == 0
    assert loss([0, 0], [-1, -1]).requires_grad


def test_a_layer_that_is_not_there_is_refused_before_anything_is_read(
    tiny_lm_folder: Path, small_sets: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ActivationExtractor, "__call__", lambda *_, **__: pytest.fail("it was read"))
    with pytest.raises(ProbeError, match="has blocks 0 to 2, found 3"):
        fit(LoRAProbe(LMSpec(str(tiny_lm_folder), device="cpu"), cache_dir=None, layer=3), small_sets, tmp_path)


@pytest.mark.parametrize(("seed", "layer"), [(1, 1), (4, 1)])
def test_the_default_layer_is_the_mean_differences(
    make_lm: Callable[..., FrozenLM], small_sets: dict[str, str], tmp_path: Path, seed: int, layer: int
) -> None:
    closed_form = MeanDifference(LMSpec(device="cpu"))
    closed_form.extractor = ActivationExtractor(make_lm(seed=seed))
    fit(closed_form, small_sets, tmp_path / "closed_form")
    scorer = probe_of(make_lm(seed=seed), layer=None)
    fit(scorer, small_sets, tmp_path / "lora")
    assert scorer.chosen_layer == closed_form.chosen_layer == layer


def test_in_several_processes_a_step_is_another_one_and_a_checkpoint_says_so(
    fitted: LoRAProbe, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = fitted.identity()
    monkeypatch.setattr(L.Trainer, "world_size", property(lambda _: 2))
    assert fitted.identity() == alone | {"processes": 2}


# -- the LM it borrows ------------------------------------------------------------------------------------------


def test_without_its_adapters_the_model_is_bit_by_bit_the_frozen_one(fitted: LoRAProbe, frozen: FrozenLM) -> None:
    assert not torch.equal(logits(fitted.lm), logits(frozen))
    with fitted.lm.adapted(0):
        assert torch.equal(logits(fitted.lm), logits(frozen))
        assert torch.equal(
            fitted.reader(STORIES).pooled("mean"), ActivationExtractor(frozen, [LAYER])(STORIES).pooled("mean")
        )
    assert not torch.equal(logits(fitted.lm), logits(frozen))


def test_a_released_model_is_bit_by_bit_the_frozen_one_and_serves_the_next_probe(
    make_lm: Callable[..., FrozenLM], frozen: FrozenLM, small_sets: dict[str, str], tmp_path: Path
) -> None:
    lm = make_lm()
    attributes = set(vars(lm.model))
    scores = []
    for i in range(2):
        scorer = probe_of(lm)
        fit(scorer, small_sets, tmp_path / str(i))
        scores.append(scorer.score(STORIES))
        scorer.release()
        scorer.release()  # a second time does nothing
        assert not [name for name, _ in lm.model.named_modules() if "lora" in name]
        assert list(lm.model.state_dict()) == list(frozen.model.state_dict())
        assert torch.equal(logits(lm), logits(frozen))
        assert FrozenLM(lm.model, lm.tokenizer).fingerprint == frozen.fingerprint
        assert set(vars(lm.model)) == attributes
    assert torch.equal(*scores)


def test_scores_come_from_the_adapted_model_and_never_from_nor_into_what_is_remembered(
    make_lm: Callable[..., FrozenLM], small_sets: dict[str, str], tmp_path: Path
) -> None:
    lm, store = make_lm(), ActivationStore(tmp_path / "cache")
    scorer = probe_of(lm, store=store)
    fit(scorer, small_sets, tmp_path / "run")
    remembered = {path.name: path.read_bytes() for path in store.folder.iterdir()}
    passages = [row.passage("response") for row in scorer.data.rows["train"]]
    with torch.no_grad():
        stale = scorer.logits(scorer.features["train"].pooled("mean")[:, 0])
    assert (scorer.score(passages)[:, 0] - stale).abs().min() > 1e-3
    scorer.extractor(STORIES)
    assert {path.name: path.read_bytes() for path in store.folder.iterdir()} == remembered
    scorer.release()
    again = ActivationExtractor(lm, [LAYER], store)(passages)
    assert torch.equal(again.pooled("mean"), scorer.features["train"].pooled("mean"))


# -- scores and the shift ---------------------------------------------------------------------------------------


def test_a_score_does_not_depend_on_what_is_scored_beside_it(fitted: LoRAProbe) -> None:
    passages = [row.passage("response") for row in fitted.data.rows["test"]]
    alone = torch.cat([fitted.score([passage]) for passage in passages])
    torch.testing.assert_close(fitted.score(passages), alone, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(fitted.score(passages[::-1]), alone.flip(0), atol=1e-5, rtol=1e-4)


def test_the_shift_is_what_the_adapters_add_to_the_pooled_state(fitted: LoRAProbe, frozen: FrozenLM) -> None:
    assert isinstance(fitted, HasShift)
    differences = []
    for encoded in fitted.lm.encoder.encode(STORIES):
        ids, inside = torch.tensor([encoded.ids]), torch.tensor(encoded.pooled)
        with torch.no_grad():
            adapted, plain = (
                lm.model(ids, output_hidden_states=True).hidden_states[LAYER + 1][0, inside].mean(0)
                for lm in (fitted.lm, frozen)
            )
        differences.append(adapted - plain)
    torch.testing.assert_close(fitted.shift(STORIES), torch.stack(differences).mean(0), atol=1e-5, rtol=1e-4)
    assert fitted.shift(STORIES).norm() > 0.01


# -- what is remembered -----------------------------------------------------------------------------------------


def test_a_checkpoint_holds_adapters_and_head_alone_and_no_pickle(run: tuple[LoRAProbe, Diary, Path]) -> None:
    scorer, _, folder = run
    checkpoint = torch.load(folder / "epoch=3.ckpt", weights_only=True)
    for state in (checkpoint["state_dict"], checkpoint["best"]["state"]):
        assert {name.partition(".")[0] for name in state} == {"adapters", "head", "centre", "scale"}
        assert all("lora_" in name for name in state if name.startswith("adapters"))
        assert sum(t.numel() for t in state.values()) == scorer.n_trainable + 2 * WIDTH
    # Four times adapters and head in float32 (the last, the best, AdamW's two moments), and their names.
    assert (folder / "epoch=3.ckpt").stat().st_size < 4 * 4 * scorer.n_trainable + 32_000


def test_the_epoch_that_ranks_validation_best_is_kept_judged_and_loaded(
    run: tuple[LoRAProbe, Diary, Path], make_lm: Callable[..., FrozenLM]
) -> None:
    scorer, diary, folder = run
    best = max(range(4), key=lambda epoch: diary.rho[epoch])
    assert best < 3, "else this shows nothing"
    assert scorer.best["epoch"] == best
    weights = torch.load(folder / f"epoch={best}.ckpt", weights_only=True)["state_dict"]
    assert all(torch.equal(tensor, weights[name]) for name, tensor in scorer.state_dict().items())
    passages = [row.passage("response") for row in scorer.data.rows["validation"]]
    torch.testing.assert_close(
        scorer.score(passages).double(), torch.from_numpy(scorer.scored["validation"]), atol=1e-5, rtol=1e-4
    )
    later = probe_of(make_lm())
    quiet = {"logger": False, "enable_progress_bar": False, "enable_checkpointing": False}
    trainer = L.Trainer(accelerator="cpu", use_distributed_sampler=False, **quiet)
    metrics = trainer.validate(later, scorer.data, ckpt_path=folder / "epoch=3.ckpt", verbose=False)[0]
    assert metrics["val/spearman"] == pytest.approx(diary.rho[best], abs=1e-6)
    assert torch.equal(later.score(STORIES), scorer.score(STORIES))


def test_a_resumed_run_ends_with_the_numbers_of_an_uninterrupted_one(
    run: tuple[LoRAProbe, Diary, Path], make_lm: Callable[..., FrozenLM], small_sets: dict[str, str], tmp_path: Path
) -> None:
    whole, diary, folder = run
    rest = probe_of(make_lm())
    resumed = fit(rest, small_sets, tmp_path, epochs=4, ckpt=folder / "epoch=1.ckpt")
    assert resumed.rho == pytest.approx(diary.rho[2:])
    half, end = (torch.load(folder / f"epoch={i}.ckpt", weights_only=True)["state_dict"] for i in (1, 3))
    for name, tensor in torch.load(tmp_path / "epoch=3.ckpt", weights_only=True)["state_dict"].items():
        torch.testing.assert_close(tensor, end[name], atol=1e-6, rtol=1e-5)
        assert name in ("centre", "scale") or not torch.allclose(half[name], tensor, atol=1e-4)
    assert rest.best["epoch"] == whole.best["epoch"]
    torch.testing.assert_close(rest.score(STORIES), whole.score(STORIES), atol=1e-5, rtol=1e-5)


def test_a_checkpoint_of_another_rank_is_refused_by_name(
    run: tuple[LoRAProbe, Diary, Path], make_lm: Callable[..., FrozenLM], small_sets: dict[str, str], tmp_path: Path
) -> None:
    other = probe_of(make_lm(), rank=4)
    with pytest.raises(ProbeError, match=r"another rank \(found 8, the config says 4\)"):
        fit(other, small_sets, tmp_path, epochs=5, ckpt=run[2] / "epoch=3.ckpt")


@pytest.mark.parametrize(("architecture", "layer"), [("llama", 1), ("olmo2", 2), ("gpt2", 0)])
def test_plain_peft_reads_what_was_saved_and_the_head_gives_the_same_scores(
    make_lm: Callable[..., FrozenLM], small_sets: dict[str, str], tmp_path: Path, architecture: str, layer: int
) -> None:
    scorer, fresh = probe_of(make_lm(architecture), layer=layer), make_lm(architecture)
    fit(scorer, small_sets, tmp_path)
    folder = scorer.save_pretrained(tmp_path / "adapter")
    names = {"adapter_config.json", "adapter_model.safetensors", "adapter.json", "head.safetensors"}
    assert {path.name for path in folder.iterdir()} == names
    PeftModel.from_pretrained(fresh.model, str(folder))
    states = ActivationExtractor(fresh, [layer])(STORIES).pooled("mean")[:, 0]
    assert torch.equal(states, scorer.reader(STORIES).pooled("mean")[:, 0])
    head = load_file(folder / "head.safetensors")
    scores = (states - head["centre"]) / head["scale"] @ head["weight"] + head["bias"]
    torch.testing.assert_close(scores, scorer.score(STORIES)[:, 0], atol=1e-5, rtol=1e-5)
    assert (folder / "adapter.json").read_text().count(scorer.lm.fingerprint) == 1
    named = {"gpt2": ["c_attn"]}.get(architecture, ["q_proj", "v_proj"])
    assert json.loads((folder / "adapter.json").read_text())["adapted"] == {str(k): named for k in range(layer + 1)}


TWO_PROCESSES = """
import sys, torch
import lightning as L
from probe.data.splits import ContrastData
from probe.scorers import LoRAProbe
from probe.lm.spec import LMSpec

folder, lm, *sets = sys.argv[1:]
L.seed_everything(0)
scorer = LoRAProbe(LMSpec(lm, device="cpu"), cache_dir=None, layer=1, lr=0.01)
options = {"num_sanity_val_steps": 0, "use_distributed_sampler": False, "logger": False, "enable_checkpointing": False}
trainer = L.Trainer(accelerator="cpu", devices=2, strategy="ddp", max_epochs=2, **options)
trainer.fit(scorer, datamodule=ContrastData(*sets, batch_size=5))
torch.save({**scorer.state_dict(), "scores": scorer.best["scores"]}, f"{folder}/{trainer.global_rank}.pt")
"""


@pytest.mark.faults
def test_two_processes_end_with_the_same_weights(
    tiny_lm_folder: Path, small_sets: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "fit.py").write_text(TWO_PROCESSES)
    sets = [small_sets[name] for name in ("pairs", "validation_stories", "test_stories")]
    command = [sys.executable, "fit.py", str(tmp_path), str(tiny_lm_folder), *sets]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, timeout=120)
    one, other = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert one["head.weight"].any()


@pytest.mark.filterwarnings("ignore:.*changes nothing here")
def test_adapters_and_head_are_float32_in_half_precision_and_scores_are_in_mixed(
    make_lm: Callable[..., FrozenLM], small_sets: dict[str, str], tmp_path: Path
) -> None:
    plain, half, mixed = (probe_of(make_lm()) for _ in range(3))
    for scorer, precision in ((plain, "32-true"), (half, "bf16-true"), (mixed, "bf16-mixed")):
        fit(scorer, small_sets, tmp_path, precision=precision)
        assert {p.dtype for p in scorer.parameters()} == {torch.float32}
    assert torch.equal(half.score(STORIES), plain.score(STORIES))
    assert not torch.equal(mixed.score(STORIES), plain.score(STORIES))
    scored = mixed.scored["validation"]
    passages = [row.passage("response") for row in mixed.data.rows["validation"]]
    torch.testing.assert_close(torch.from_numpy(scored), mixed.score(passages).double(), atol=1e-5, rtol=1e-5)
