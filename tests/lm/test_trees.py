"""Texts that begin alike are read once, and that changes no number; where a model cannot do that it is not asked to."""

import random
from collections.abc import Callable

import pytest
import torch
from tiny import ARCHITECTURES

from probe.activations.extractor import ActivationExtractor
from probe.activations.pooling import POOLINGS, Activations
from probe.data.reading import Passage
from probe.lm.frozen import FrozenLM
from probe.lm.tokens import Encoded
from probe.lm.trees import ROW_NODES, collate, grow, plan_rows

MakeLM = Callable[..., FrozenLM]
NOT_BY_TREE = {"bloom", "mpt", "mamba", "mistral", "gemma2", "gemma3_text", "gpt_neo", "modernbert-decoder"}
"""ALiBi, a recurrence, and the windows of 8 tokens of the tests."""
ALIKE = [
    *(
        Passage("Write a story about a hen", f"Once upon a time a {it} slept.")
        for it in ("hen", "hedgehog", "hat", "fox")
    ),
    *(Passage(f"Write a story about a {it}") for it in ("hen that crows", "hen that lays", "hen")),
    *(Passage("Write.", "Rain " * n) for n in (1, 2, 9)),
]


def encoded(*texts: str) -> list[Encoded]:
    return [Encoded(tuple(map(ord, text)), (False,) * (len(text) - 1) + (True,)) for text in texts]


def read(lm: FrozenLM, passages: list[Passage], by_tree: bool) -> tuple[Activations, ActivationExtractor]:
    extractor = ActivationExtractor(lm)
    if not by_tree:
        lm.longest_in_tree = 0
    return extractor(passages), extractor


def difference(one: Activations, other: Activations) -> float:
    """Largest distance of two texts' states, as a share of their length."""
    gaps = [(one.pooled(p) - other.pooled(p)).norm(dim=-1) / other.pooled(p).norm(dim=-1) for p in POOLINGS]
    return float(torch.stack(gaps).max())


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_a_tree_gives_the_numbers_of_each_text_alone_on_every_architecture(make_lm: MakeLM, architecture: str) -> None:
    by_tree, tree = read(make_lm(architecture), ALIKE, True)
    alone, plain = read(make_lm(architecture), ALIKE, False)
    assert difference(by_tree, alone) <= 1e-5
    assert torch.equal(by_tree.n_tokens, alone.n_tokens)
    assert tree.reads.tokens == plain.reads.tokens
    if architecture in NOT_BY_TREE:
        assert tree.reads == plain.reads
    else:
        assert tree.reads.nodes < 0.6 * plain.reads.nodes


def test_in_bfloat16_a_tree_is_as_near_to_float32_as_reading_alone_is(make_lm: MakeLM) -> None:
    exact, _ = read(make_lm(), ALIKE, False)
    found = []
    for by_tree in (True, False):
        lm = make_lm()
        lm.model.to(torch.bfloat16)
        found.append(difference(read(lm, ALIKE, by_tree)[0], exact))
    assert 1e-3 < found[0] < 1.5 * found[1]


def test_texts_longer_than_the_window_of_attention_share_no_row_and_the_others_do(make_lm: MakeLM) -> None:
    lm = make_lm()
    lm.model.config.sliding_window = 60
    assert lm.longest_in_tree == 60
    lengths = [len(e.ids) for e in lm.encoder.encode(ALIKE)]
    rows = [row for batch in plan_rows(lm.encoder.encode(ALIKE), lm.longest_in_tree) for row in batch]
    assert max(lengths) > 60
    assert all(lengths[i] <= 60 for row in rows if len(row) > 1 for i in row)
    assert max(map(len, rows)) > 1


@pytest.mark.parametrize("seed", range(20))
def test_the_mask_of_a_tree_shows_each_node_its_own_beginning_and_nothing_else(seed: int) -> None:
    rng = random.Random(seed)
    texts = sorted("".join(rng.choices("ab", k=rng.randint(1, 8))) for _ in range(rng.randint(2, 9)))
    beginnings = {text[:n] for text in texts for n in range(1, len(text) + 1)}
    tree = grow(encoded(*texts))
    assert len(tree.ids) == len(beginnings)
    spelled: dict[int, str] = {}
    for text, path in zip(texts, tree.paths, strict=True):
        assert "".join(map(chr, tree.ids[path])) == text
        assert tree.depth[path].tolist() == list(range(len(text)))
        spelled |= {node: text[: n + 1] for n, node in enumerate(path)}
    batch = collate([encoded(*texts), encoded("abba")], range(len(texts) + 1), 0, torch.float32, torch.device("cpu"))
    mask = batch.inputs["attention_mask"][0, 0]
    for t, of_t in spelled.items():
        assert {spelled[s] for s in spelled if mask[t, s] == 0} == {of_t[:n] for n in range(1, len(of_t) + 1)}
        assert of_t[:-1] == (spelled[int(batch.parent[0, t])] if len(of_t) > 1 else "")
    assert torch.isfinite(mask.softmax(-1)).all()  # padding too


def test_every_text_is_planned_once_and_a_row_is_no_longer_than_it_may_be() -> None:
    rng = random.Random(0)
    texts = encoded(
        *("a" * rng.randint(1, 90) + "b" * rng.randint(0, 30) for _ in range(300)), "a" * 700, "a" * 690 + "b"
    )
    batches = plan_rows(texts, longest=10_000)
    rows = [row for batch in batches for row in batch]
    assert sorted(i for row in rows for i in row) == list(range(len(texts)))
    widths = [len(grow([texts[i] for i in row]).ids) for row in rows]
    assert all(width <= max(ROW_NODES, 2 * len(texts[row[0]].ids)) for row, width in zip(rows, widths, strict=True))
    assert {300, 301} <= set(next(row for row in rows if 300 in row))  # long beginnings are shared too
    assert sum(widths) < 0.2 * sum(len(text.ids) for text in texts)


def test_where_nothing_is_shared_texts_are_read_in_plain_rows() -> None:
    texts = encoded(*(chr(200 + i) * (20 + i % 40) for i in range(100)))
    assert plan_rows(texts, longest=10_000) == plan_rows(texts, longest=0)
    assert all(len(row) == 1 for batch in plan_rows(texts, longest=10_000) for row in batch)
