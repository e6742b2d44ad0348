"""Pooling is what it says, reading happens once, and neither damage nor interruption changes a number."""

import hashlib
import itertools
import json
import math
import random
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import SPECIAL
from torch import Tensor

import probe.activations.extractor
from probe.activations.extractor import ActivationExtractor
from probe.activations.pooling import POOLINGS, Activations, pool
from probe.activations.store import ActivationStore
from probe.data.reading import Passage
from probe.directions.direction import random_directions
from probe.errors import ProbeError
from probe.lm.frozen import FrozenLM
from probe.lm.spec import LMSpec
from probe.lm.tokens import plan_batches
from probe.lm.trees import plan_rows

MakeLM = Callable[..., FrozenLM]
WORDS = ["sea", "stone", "hen", "lamp", "rain", "salt", "moss", "bell", "thread", "ash"]
SYSTEM = "You are terse. Tell it in one sentence."


def passages(n: int, seed: int = 0) -> list[Passage]:
    rng = random.Random(seed)
    text = lambda: " ".join(rng.choices(WORDS, k=rng.randint(1, 12)))  # noqa: E731
    return [Passage(f"{i} {text()}", text() if i % 3 else None) for i in range(n)]


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """About three texts a pass and one to three passes a shard, instead of thousands of tokens."""
    monkeypatch.setattr(probe.activations.extractor, "plan_rows", partial(plan_rows, pass_cost=60))
    monkeypatch.setattr(FrozenLM, "batch_tokens", 300)
    monkeypatch.setattr(probe.activations.extractor, "SHARD_TOKENS", 100)


def assert_equal(got: Activations, expected: Activations) -> None:
    assert got.layers == expected.layers
    assert torch.equal(got.n_tokens, expected.n_tokens)
    for pooling in POOLINGS:
        assert torch.equal(got.pooled(pooling), expected.pooled(pooling)), pooling


def assert_close(got: Activations, expected: Activations) -> None:
    """For reads in other batches, where float32 sums in another order; states are of size 1 to 10."""
    for name in POOLINGS:
        torch.testing.assert_close(got.pooled(name), expected.pooled(name), rtol=1e-4, atol=1e-4)


# Memory


def test_where_a_batch_does_not_fit_half_of_it_is_read_at_a_time_to_the_same_numbers(
    make_lm: MakeLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    lm, texts = make_lm(), passages(60)
    expected = ActivationExtractor(lm)(texts)
    tried: list[int] = []

    def short_of_memory(_module: object, _args: object, kwargs: dict[str, Tensor]) -> None:
        tried.append(kwargs["input_ids"].numel())
        if tried[-1] > 400:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    lm.decoder.register_forward_pre_hook(short_of_memory, with_kwargs=True)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    assert_close(ActivationExtractor(lm)(texts), expected)
    assert max(tried) > 400
    failed = [n for n in tried if n > 400]
    assert failed == sorted(failed, reverse=True)  # what is as large as what did not fit is not tried again


def test_a_text_that_does_not_fit_alone_is_refused_with_what_to_do(make_lm: MakeLM) -> None:
    lm = make_lm()

    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    lm.decoder.register_forward_pre_hook(full)
    with pytest.raises(ProbeError, match=r"too small for a text of .* --lm\.max_tokens"):
        ActivationExtractor(lm)(passages(5))


def test_states_stay_where_the_store_has_them_mapped_from_its_files(tiny_lm: FrozenLM, tmp_path: Path) -> None:
    texts = passages(30)
    expected = ActivationExtractor(tiny_lm)(texts)
    extractor = ActivationExtractor(tiny_lm, store=ActivationStore(tmp_path))
    read, again = extractor(texts), ActivationExtractor(tiny_lm, store=ActivationStore(tmp_path))(texts)
    for kept in (read, again, extractor(texts)):
        assert_equal(kept, expected)
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".safetensors"}
    mapped = [line.split()[0] for line in Path("/proc/self/maps").read_text().splitlines() if str(tmp_path) in line]
    ranges = [[int(end, 16) for end in span.split("-")] for span in mapped]
    for entry in [*read.entries, *again.entries]:
        assert any(low <= entry.data_ptr() < high for low, high in ranges)


def test_one_layer_at_a_time_is_all_of_them_and_rows_are_what_was_asked_for(tiny_lm: FrozenLM) -> None:
    read = ActivationExtractor(tiny_lm)(passages(9))
    rows = torch.tensor([4, 0, 4])
    vectors = random_directions(5, read.layers, read.width, seed=0)
    for pooling in POOLINGS:
        everything = read.pooled(pooling)
        assert everything.shape == (9, len(read.layers), read.width)
        assert torch.equal(torch.stack(list(read.by_layer(pooling)), 1), everything)
        assert torch.equal(read[rows].pooled(pooling), everything[rows])
    cosines = torch.einsum("nld,rld->nlr", read.pooled("unit_mean"), vectors)
    torch.testing.assert_close(read.cosines(vectors), cosines)
    assert ActivationExtractor(tiny_lm)([]).pooled("mean").shape == (0, len(read.layers), read.width)


# Pooling


def random_states(seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    h = torch.randn(4, 9, 5, generator=generator) * 3
    mask = torch.tensor([[0, 0, 1, 1, 1, 0, 0, 0, 0], [1] * 9, [0] * 8 + [1], [0, 1, 0, 0, 1, 0, 1, 0, 0]])
    return h, mask


def test_pool_equals_a_plain_loop() -> None:
    h, mask = random_states()
    last, mean, unit_mean = pool(h, mask)
    for row in range(len(h)):
        kept = [h[row, t].double() for t in range(mask.shape[1]) if mask[row, t]]
        assert torch.equal(last[row], kept[-1].float())
        for got, terms in ((mean, kept), (unit_mean, [state / state.norm() for state in kept])):
            torch.testing.assert_close(got[row].double(), sum(terms) / len(terms), rtol=1e-5, atol=1e-6)


def test_pool_gives_finite_float32_for_bfloat16_and_for_a_state_of_zero() -> None:
    h, mask = random_states()
    h[0, 3] = 0
    pooled = pool(h.bfloat16(), mask)
    assert all(p.dtype == torch.float32 and p.isfinite().all() for p in pooled)
    assert torch.equal(pool(h.bfloat16().float(), mask)[2], pooled[2])


def test_unit_mean_times_a_unit_direction_is_the_mean_cosine() -> None:
    h, mask = random_states(1)
    a = torch.nn.functional.normalize(torch.arange(1.0, 6), dim=0)
    cosines = torch.nn.functional.cosine_similarity(h, a.expand_as(h), dim=-1)
    expected = torch.stack([cosines[row][mask[row].bool()].mean() for row in range(len(h))])
    torch.testing.assert_close(pool(h, mask)[2] @ a, expected, rtol=1e-5, atol=1e-6)


# Batches


def cost(lengths: list[int], batches: list[list[int]], pass_cost: int) -> int:
    return sum(len(rows) * max(lengths[i] for i in rows) + pass_cost for rows in batches)


@pytest.mark.parametrize("seed", range(30))
def test_the_batch_plan_covers_every_text_once_within_the_budget_at_the_least_cost(seed: int) -> None:
    rng = random.Random(seed)
    lengths = [rng.randint(1, 40) for _ in range(rng.randint(1, 9))]
    budget, pass_cost = rng.choice([30, 60, 200]), rng.choice([0, 5, 50])
    plan = plan_batches(lengths, budget, pass_cost)
    assert sorted(i for rows in plan for i in rows) == list(range(len(lengths)))
    fits = lambda rows: len(rows) == 1 or len(rows) * max(lengths[i] for i in rows) <= budget  # noqa: E731
    assert all(fits(rows) for rows in plan)
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    splits = (
        [order[i:j] for i, j in itertools.pairwise((0, *cuts, len(order)))]
        for n_cuts in range(len(order))
        for cuts in itertools.combinations(range(1, len(order)), n_cuts)
    )
    best = min(cost(lengths, split, pass_cost) for split in splits if all(map(fits, split)))
    assert cost(lengths, plan, pass_cost) == best


# Spans


def pooled_text(lm: FrozenLM, passage: Passage) -> str:
    (encoded,) = lm.encoder.encode([passage])
    kept = [i for i, inside in zip(encoded.ids, encoded.pooled, strict=True) if inside]
    assert min(kept) >= len(SPECIAL), "a template token or BOS is in the span"
    return str(lm.tokenizer.decode(kept, clean_up_tokenization_spaces=False))


def test_texts_are_marked_together_as_each_is_alone_whatever_spaces_stand_at_the_seam(make_lm: MakeLM) -> None:
    rng, bits = random.Random(0), [" ", "  ", "\n\n", "a hen", "The", "é", "猫", "🐈", "\t", ".", " 12", "x"]
    text = lambda: "".join(rng.choices(bits, k=rng.randint(1, 8))) + "x"  # noqa: E731
    texts = [Passage(text(), text() if i % 2 else None) for i in range(200)]
    for lm in (make_lm(), make_lm(chat_template=None), FrozenLM.load(LMSpec("data/storyteller/lm0"))):
        together = lm.encoder.encode(texts)
        assert together == [lm.encoder.encode([one])[0] for one in texts]
        for one, encoded in zip(texts, together, strict=True):
            kept = [i for i, inside in enumerate(encoded.pooled) if inside]
            assert kept == list(range(kept[0], len(encoded.ids)))  # a span is of one piece
            read = str(lm.tokenizer.decode([encoded.ids[i] for i in kept], clean_up_tokenization_spaces=False))
            assert read.strip() == one.pooled.strip()


@pytest.mark.parametrize("system", [None, SYSTEM])
@pytest.mark.parametrize("text", ["A hen.", "two\nlines ", "naïve 猫 🐈 é", "user: <b>x</b>", "x", SYSTEM[:8]])
def test_the_pooled_tokens_are_exactly_the_prompt_or_the_response(
    make_lm: MakeLM, text: str, system: str | None
) -> None:
    for lm in (make_lm(system=system), make_lm(chat_template=None)):
        assert pooled_text(lm, Passage(text)) == text.strip()
        assert pooled_text(lm, Passage("Write.", text)) == text
        assert pooled_text(lm, Passage(text, text)) == text


@pytest.mark.parametrize("word", ["end", "assistant", "a", "|", "user", "<"])
def test_a_prompt_that_is_part_of_the_template_is_still_read_where_the_user_wrote_it(
    tiny_lm: FrozenLM, word: str
) -> None:
    assert pooled_text(tiny_lm, Passage(word)) == word
    (encoded,) = tiny_lm.encoder.encode([Passage(word)])
    assert encoded.pooled.index(True) == 2  # after <|begin|> and <|user|>


def test_a_template_that_rewrites_the_prompt_never_gets_template_tokens_into_the_span(make_lm: MakeLM) -> None:
    lm = make_lm()
    lm.tokenizer.chat_template = str(lm.tokenizer.chat_template).replace("m['content']", "m['content'] | upper")
    try:
        text = pooled_text(lm, Passage("a grey hen"))
    except ProbeError:
        return  # refusing is as good as finding it
    assert text == "A GREY HEN"


def test_a_system_message_does_not_change_which_tokens_are_pooled(make_lm: MakeLM) -> None:
    texts = passages(6)
    for with_system, without in zip(
        make_lm(system=SYSTEM).encoder.encode(texts), make_lm().encoder.encode(texts), strict=True
    ):
        pooled = [[i for i, inside in zip(e.ids, e.pooled, strict=True) if inside] for e in (with_system, without)]
        assert pooled[0] == pooled[1]
        assert len(with_system.ids) - len(without.ids) >= len(SYSTEM)


def test_nothing_after_the_span_is_read_and_all_before_it_is(tiny_lm: FrozenLM) -> None:
    (encoded,) = tiny_lm.encoder.encode([Passage("A hen.")])
    assert encoded.pooled[-1]
    assert tiny_lm.tokenizer.decode(list(encoded.ids)) == "<|begin|><|user|>A hen."


def test_n_tokens_counts_the_tokens_of_the_span(tiny_lm: FrozenLM) -> None:
    texts = passages(7)
    expected = [len(p.pooled.encode()) for p in texts]  # a byte is a token here
    assert ActivationExtractor(tiny_lm)(texts).n_tokens.tolist() == expected


def test_overlong_texts_are_cut_and_counted_and_strict_refuses_them(make_lm: MakeLM) -> None:
    long, short = Passage("x", "rain " * 20), Passage("x", "rain")
    extractor = ActivationExtractor(make_lm(max_tokens=40))
    read = extractor([long, short])
    assert extractor.reads.truncated == 1
    prefix = len(extractor.lm.encoder.encode([short])[0].ids) - 4
    assert read.n_tokens.tolist() == [40 - prefix, 4]
    cut = ActivationExtractor(make_lm())([Passage("x", ("rain " * 20)[: 40 - prefix])])
    assert_close(read[torch.tensor([0])], cut)
    with pytest.raises(ProbeError, match="--strict"):
        ActivationExtractor(make_lm(max_tokens=40, strict=True))([short, long])
    with pytest.raises(ProbeError, match="within 40 tokens"):
        ActivationExtractor(make_lm(max_tokens=40))([Passage("x" * 60, "rain")])


# Layers


def test_layers_are_named_by_block_and_any_subset_gives_the_same_numbers(tiny_lm: FrozenLM) -> None:
    texts = passages(5)
    everything = ActivationExtractor(tiny_lm)(texts)
    assert everything.layers == (0, 1, 2)
    for layers, expected in (([2, 0, 0], (0, 2)), ([-1], (2,)), ([1], (1,))):
        some = ActivationExtractor(tiny_lm, layers)(texts)
        assert some.layers == expected
        for pooling in POOLINGS:
            assert torch.equal(some.pooled(pooling), everything.pooled(pooling)[:, list(expected)])


def test_layers_may_be_any_iterable(tiny_lm: FrozenLM) -> None:
    assert ActivationExtractor(tiny_lm, (k for k in (0, 2))).layers == (0, 2)


@pytest.mark.parametrize("layer", [3, -4])
def test_an_unknown_layer_is_refused_with_the_ones_there_are(tiny_lm: FrozenLM, layer: int) -> None:
    with pytest.raises(ProbeError, match=f"blocks 0 to 2, found {layer}"):
        ActivationExtractor(tiny_lm, [0, layer])


# Reading once


def test_the_second_read_of_the_same_texts_runs_the_lm_zero_times(tiny_lm: FrozenLM, tmp_path: Path) -> None:
    store = ActivationStore(tmp_path)
    first = ActivationExtractor(tiny_lm, store=store)
    expected = first(passages(8))
    assert first.reads.texts == 8
    for again in (ActivationStore(tmp_path), store):  # from disk, then from memory with the disk emptied
        second = ActivationExtractor(tiny_lm, store=again)
        assert_equal(second(passages(8)), expected)
        assert_equal(second(passages(8)[::-1]), expected[torch.arange(8).flip(0)])
        assert second.reads.passes == second.reads.texts == second.reads.tokens == 0
        for file in tmp_path.iterdir():
            file.unlink()


def test_a_larger_set_reads_only_what_is_new_and_duplicates_are_read_once(
    tiny_lm: FrozenLM, tmp_path: Path, small_batches: None
) -> None:
    texts = passages(10)
    extractor = ActivationExtractor(tiny_lm, store=ActivationStore(tmp_path))
    extractor([*texts[:4], *texts[:4]])
    assert extractor.reads.texts == 4
    extractor([*texts[:4], texts[1], texts[0]])
    assert extractor.reads.texts == 4
    duplicated = extractor([*texts, *texts[::-1]])
    assert extractor.reads.texts <= 10 + 4  # a batch that mixes old and new texts is read whole
    assert_equal(duplicated[torch.arange(10)], duplicated[torch.arange(10, 20).flip(0)])
    keys = [key for file in tmp_path.glob("*.json") for key in json.loads(file.read_text())["keys"]]
    assert len(keys) == len(set(keys)) == 10  # but what was written once is not written again
    assert_close(duplicated[torch.arange(10)], ActivationExtractor(tiny_lm)(texts))


def test_without_a_store_duplicates_are_read_once_too(tiny_lm: FrozenLM) -> None:
    extractor = ActivationExtractor(tiny_lm)
    read = extractor([*passages(3)] * 5)
    assert extractor.reads.texts == 3
    assert_equal(read[torch.arange(3)], read[torch.arange(12, 15)])


def test_another_span_layer_dtype_weight_or_system_message_is_read_anew(make_lm: MakeLM, tmp_path: Path) -> None:
    store = ActivationStore(tmp_path)
    passage = Passage("a hen", "a sea")

    def passes(lm: FrozenLM, layers: list[int], passage: Passage = passage) -> int:
        extractor = ActivationExtractor(lm, layers, store)
        extractor([passage])
        return extractor.reads.passes

    halved = make_lm()
    halved.model.to(torch.bfloat16)
    nudged = make_lm()
    with torch.no_grad():
        nudged.model.lm_head.weight[7, 7] += 1
    assert passes(make_lm(), [1]) == 1
    assert passes(make_lm(), [1]) == passes(make_lm(), [-2]) == 0
    assert passes(make_lm(), [1, 2]) == 1
    assert passes(make_lm(), [1], Passage("a hen")) == 1
    assert passes(make_lm(), [1], Passage("a hena", " sea")) == 1
    assert passes(halved, [1]) == 1
    assert passes(nudged, [1]) == 1
    assert passes(make_lm(system=SYSTEM), [1]) == 1
    assert passes(make_lm(seed=1), [1]) == 1


def test_the_same_tokens_with_another_span_have_another_key(tiny_lm: FrozenLM) -> None:
    extractor = ActivationExtractor(tiny_lm)
    (encoded,) = tiny_lm.encoder.encode([Passage("a hen")])
    assert extractor._key(encoded) == extractor._key(replace(encoded))
    assert extractor._key(encoded) != extractor._key(replace(encoded, pooled=(*encoded.pooled[:-1], False)))


# Damage


def shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors"))


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[-5] ^= 0x10
    file.write_bytes(data)


def halve(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def changed(change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Path], None]:
    """Changes a shard's entries and writes the sha256 of the new file into its manifest."""

    def damage(file: Path) -> None:
        save_file({"entries": change(load_file(file)["entries"]).contiguous()}, file)
        manifest = file.with_suffix(".json")
        listed = json.loads(manifest.read_text()) | {"sha256": hashlib.sha256(file.read_bytes()).hexdigest()}
        manifest.write_text(json.dumps(listed))

    return damage


def rewrite(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    """Damage to a shard's manifest alone."""

    def damage(shard: Path) -> None:
        file = shard.with_suffix(".json")
        manifest = change(json.loads(file.read_text()))
        file.write_text(manifest if isinstance(manifest, str) else json.dumps(manifest))

    return damage


@pytest.mark.parametrize(
    "damage",
    [
        changed(lambda entries: entries * torch.nan),
        changed(lambda entries: entries / 0),
        changed(lambda entries: entries[..., :-1]),
        changed(lambda entries: entries[:, :, :-1]),
        changed(lambda entries: entries[:, :-1]),
        changed(lambda entries: entries[:-1]),
        changed(lambda entries: entries.long()),
        changed(lambda entries: entries.double()),
    ],
    ids=["nan", "infinite", "narrower", "fewer layers", "fewer poolings", "fewer texts", "integers", "float64"],
)
def test_a_resealed_shard_that_holds_no_such_states_is_read_again(
    tiny_lm: FrozenLM, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    expected = ActivationExtractor(tiny_lm, store=ActivationStore(tmp_path))(passages(4))
    (victim,) = shards(tmp_path)
    damage(victim)
    warnings: list[str] = []
    assert_equal(ActivationExtractor(tiny_lm, store=ActivationStore(tmp_path, warnings.append))(passages(4)), expected)
    assert [victim.name in warning for warning in warnings] == [True]


MANIFESTS = {
    "a key more": rewrite(lambda m: m | {"keys": [*m["keys"], "0" * 64]}),
    "a key fewer": rewrite(lambda m: m | {"keys": m["keys"][1:]}),
    "a key that is a list": rewrite(lambda m: m | {"keys": [[], *m["keys"][1:]]}),
    "no keys": rewrite(lambda m: {k: v for k, v in m.items() if k != "keys"}),
    "keys that are a number": rewrite(lambda m: m | {"keys": 7}),
    "no sha256": rewrite(lambda m: {k: v for k, v in m.items() if k != "sha256"}),
    "a list": rewrite(lambda m: [m]),
    "a number": rewrite(lambda m: 7),
    "nested 100,000 deep": rewrite(lambda m: "[" * 100_000 + "]" * 100_000),
    "a shard that holds something else": lambda shard: resealed(shard, {"other": torch.zeros(3)}),
    "a shard with one number": lambda shard: resealed(shard, {"entries": torch.tensor(1.0)}),
}


def resealed(shard: Path, tensors: dict[str, Tensor]) -> None:
    save_file(tensors, shard)
    sha256 = hashlib.sha256(shard.read_bytes()).hexdigest()
    rewrite(lambda m: m | {"sha256": sha256})(shard)


@pytest.mark.parametrize(
    "damage",
    [
        flip,
        halve,
        Path.unlink,
        lambda f: f.write_bytes(b""),
        lambda f: halve(f.with_suffix(".json")),
        *MANIFESTS.values(),
    ],
    ids=["flipped byte", "truncated", "missing", "empty", "truncated manifest", *MANIFESTS],
)
def test_a_damaged_shard_is_noticed_warned_about_and_read_again_to_the_same_numbers(
    tiny_lm: FrozenLM, tmp_path: Path, small_batches: None, damage: Callable[[Path], Any]
) -> None:
    texts = passages(12)
    ActivationExtractor(tiny_lm, store=ActivationStore(tmp_path))(texts)
    expected = ActivationExtractor(tiny_lm)(texts)  # in memory: what is mapped would change with its file
    victim, *others = shards(tmp_path)
    lost = len(json.loads(victim.with_suffix(".json").read_text())["keys"])
    assert others
    damage(victim)
    warnings: list[str] = []
    repaired = ActivationExtractor(tiny_lm, store=ActivationStore(tmp_path, warnings.append))
    assert_equal(repaired(texts), expected)
    assert [victim.name in warning for warning in warnings] == [True]
    assert repaired.reads.texts == lost
    clean = ActivationExtractor(tiny_lm, store=ActivationStore(tmp_path, pytest.fail))  # and it is whole again
    assert_equal(clean(texts), expected)
    assert clean.reads.passes == 0


@pytest.mark.parametrize("content", ["[]", "{}", "null", "\x00", '{"keys": 3}'])
def test_a_foreign_json_file_in_the_folder_does_no_harm(tiny_lm: FrozenLM, tmp_path: Path, content: str) -> None:
    (tmp_path / "foreign.json").write_text(content)
    assert_equal(
        ActivationExtractor(tiny_lm, store=ActivationStore(tmp_path))(passages(3)),
        ActivationExtractor(tiny_lm)(passages(3)),
    )


def test_a_shard_without_a_manifest_is_ignored(tiny_lm: FrozenLM, tmp_path: Path) -> None:
    ActivationExtractor(tiny_lm, store=ActivationStore(tmp_path))(passages(4))
    expected = ActivationExtractor(tiny_lm)(passages(4))
    (shard,) = shards(tmp_path)
    shard.with_suffix(".json").unlink()
    halve(shard)
    extractor = ActivationExtractor(tiny_lm, store=ActivationStore(tmp_path, pytest.fail))
    assert_equal(extractor(passages(4)), expected)
    assert extractor.reads.texts == 4


def test_nothing_but_whole_shards_and_their_manifests_is_left_on_disk(
    tiny_lm: FrozenLM, tmp_path: Path, small_batches: None
) -> None:
    ActivationExtractor(tiny_lm, store=ActivationStore(tmp_path))(passages(12))
    names = {shard.with_suffix("").name for shard in shards(tmp_path)}
    assert len(names) > 1
    assert {p.name for p in tmp_path.iterdir()} == {f"{n}{end}" for n in names for end in (".json", ".safetensors")}


def test_an_unwritable_folder_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    existing = [Path("/proc")] if Path("/proc").is_dir() else []  # a folder in which not even root makes files
    for folder in (tmp_path / "file", tmp_path / "file" / "below", *existing):
        with pytest.raises(ProbeError, match="cannot be written to"):
            ActivationStore(folder)


# Interruption


@pytest.mark.parametrize("architecture", ["llama", "mamba"])  # in trees, and in plain rows
@pytest.mark.parametrize("nth_pass", [1, 4, 7])
def test_an_interrupted_read_resumes_with_bit_equal_numbers_and_pays_only_for_what_was_not_committed(
    make_lm: MakeLM,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    small_batches: None,
    nth_pass: int,
    architecture: str,
) -> None:
    lm, texts = make_lm(architecture), passages(30)
    whole = ActivationExtractor(lm, store=ActivationStore(tmp_path / "whole"))
    expected = whole(texts)
    assert whole.reads.passes >= 7
    forward, n_passes = lm.decoder.forward, itertools.count(1)

    def interrupted(*args: Any, **kwargs: Any) -> Any:
        if next(n_passes) == nth_pass:
            raise KeyboardInterrupt
        return forward(*args, **kwargs)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(lm.decoder, "forward", interrupted)
        ActivationExtractor(lm, store=ActivationStore(tmp_path / "cut"))(texts)
    manifests = [json.loads(file.read_text()) for file in (tmp_path / "cut").glob("*.json")]
    assert bool(manifests) == (nth_pass > 1)  # at most three passes fill the first shard
    committed = {key for manifest in manifests for key in manifest["keys"]}
    rerun = ActivationExtractor(lm, store=ActivationStore(tmp_path / "cut"))
    assert_equal(rerun(texts), expected)
    saved = sum(len(e.ids) for e in lm.encoder.encode(texts) if rerun._key(e) in committed)
    assert rerun.reads.tokens <= whole.reads.tokens - saved
    assert rerun.reads.texts == len(texts) - len(committed)


# States that are not finite


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_states_that_are_not_finite_are_refused_with_the_callers_row(make_lm: MakeLM, value: float) -> None:
    lm = make_lm()
    (token,) = lm.tokenizer("Z", add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        lm.model.get_input_embeddings().weight[token] = value
    with pytest.raises(ProbeError, match=r"for 1 texts \(first: row 2\).*--lm.dtype"):
        ActivationExtractor(lm)([Passage("a hen"), Passage("x"), Passage("a Zebra in the rain"), Passage("salt")])


def test_the_row_named_is_the_callers_row_where_texts_repeat(make_lm: MakeLM) -> None:
    lm = make_lm()
    (token,) = lm.tokenizer("Z", add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        lm.model.get_input_embeddings().weight[token] = math.nan
    with pytest.raises(ProbeError, match="first: row 3"):
        ActivationExtractor(lm)([Passage("hen"), Passage("hen"), Passage("hen"), Passage("a Zebra")])


def test_texts_that_are_not_finite_are_not_remembered(make_lm: MakeLM, tmp_path: Path) -> None:
    lm = make_lm()
    with torch.no_grad():
        lm.model.get_input_embeddings().weight.fill_(math.nan)
    with pytest.raises(ProbeError):
        ActivationExtractor(lm, store=ActivationStore(tmp_path))(passages(2))
    assert not shards(tmp_path)


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "bloom"])
def test_states_with_gradient_are_those_of_each_text_alone_though_texts_that_begin_alike_share_a_row(
    make_lm: Callable[..., FrozenLM], architecture: str
) -> None:
    lm = make_lm(architecture)
    embeddings = lm.model.get_input_embeddings().weight.requires_grad_(True)
    answers = ("a boat", "a boat for a hen", "a hat", "nothing at all", "a boat for a hen and a hat")
    passages = [Passage("What is a surprising use for a box?", answer) for answer in answers]
    extractor, encoded = ActivationExtractor(lm, [0, 1]), lm.encoder.encode(passages)

    def read(batches: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        embeddings.grad = None
        states = torch.cat([extractor.states(encoded, rows) for rows in batches])
        (states * torch.arange(states.numel()).view_as(states).sin()).sum().backward()
        assert embeddings.grad is not None
        return states.detach(), embeddings.grad.clone()

    before = extractor.reads.nodes
    together, alone = read([[4, 2, 0, 1, 3]]), read([[4], [2], [0], [1], [3]])
    torch.testing.assert_close(together[0], alone[0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(together[1], alone[1], atol=1e-4, rtol=1e-4)
    shared = extractor.reads.nodes - before - sum(len(text.ids) for text in encoded)
    assert (shared < sum(len(text.ids) for text in encoded)) == (architecture != "bloom")  # ALiBi reads no trees
