"""Texts that begin alike are read once: laid out as a tree in one row, where each token sees its own beginning alone.

A causal LM's states depend on what comes before a token and on nothing else. So the texts of a row share the nodes of their
common beginnings; a node attends to its ancestors (a 4-D mask) and has its depth as position. Nodes are numbered in
preorder, so the nodes below s are those from s up to `end[s]`, and the mask is two comparisons.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from probe.lm.tokens import BATCH_TOKENS, PASS_COST, Encoded, TokenBatch, plan_batches

ROW_NODES = 512
"""Nodes in one row, where no text is longer: beginnings are read again in each row, but attention grows with its square."""
MASK_COST = 2560
"""Width at which a masked row costs twice as much a token as a plain one (at 512, 1.16 to 1.21 on SmolLM2-135M)."""
Nodes = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Tree:
    """The texts of one row as a tree of T nodes in preorder."""

    ids: Nodes
    """`[T]` token ids."""
    depth: Nodes
    """`[T]` position of the token in its texts."""
    parent: Nodes
    """`[T]` the node before; a first token is its own."""
    end: Nodes
    """`[T]` the first node behind those below it."""
    paths: list[Nodes]
    """The nodes of each text."""


def grow(texts: Sequence[Encoded]) -> Tree:
    """Lays out texts, in the order of their tokens, as a tree."""
    ids, depth, end, paths = [], [], np.zeros(sum(len(text.ids) for text in texts), dtype=np.int64), list[Nodes]()
    size, path, before = 0, np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    for text in texts:
        tokens = np.array(text.ids)
        shared = _shared(before, tokens)
        new = len(tokens) - shared
        path, before = np.concatenate([path[:shared], np.arange(size, size + new)]), tokens
        ids.append(tokens[shared:])
        depth.append(np.arange(shared, len(tokens)))
        paths.append(path)
        size += new
        end[path] = size
    parent = np.zeros(size, dtype=np.int64)
    for path in paths:
        parent[path[1:]] = path[:-1]
        parent[path[0]] = path[0]
    return Tree(np.concatenate(ids), np.concatenate(depth), parent, end[:size], paths)


def _shared(one: Nodes, other: Nodes) -> int:
    """How many tokens two texts have in common before they differ."""
    n = min(len(one), len(other))
    differ = np.flatnonzero(one[:n] != other[:n])
    return int(differ[0]) if len(differ) else n


@dataclass(frozen=True)
class TreeBatch:
    """Rows of texts that begin alike, padded on the right; where every row is a single text, plain rows."""

    input_ids: Tensor
    """`[B, T]`"""
    parent: Tensor
    """`[B, T]` the node before each node."""
    pool_mask: Tensor
    """`[B, S, T]` 1 on the nodes of the selected span of each text of a row; rows with fewer than S texts end with zeros."""
    example: Tensor
    """`[N]` row numbers of the caller, row by row."""
    place: Tensor
    """`[N]` where each text stands among the B x S."""
    n_tokens: int
    """Tokens of the texts, each counted as if it were read alone."""
    inputs: dict[str, Tensor]
    """What the decoder is called with: without a mask where no row has two texts, since padding is on the right."""

    @property
    def plain(self) -> TokenBatch:
        """The same where every row is a single text."""
        real = (self.parent != torch.arange(self.parent.shape[1], device=self.parent.device)).long()
        real[:, 0] = 1
        return TokenBatch(self.input_ids, real, self.pool_mask[:, 0], self.example)


def collate(
    rows: Sequence[Sequence[Encoded]], example: Sequence[int], pad_id: int, dtype: torch.dtype, device: torch.device
) -> TreeBatch:
    """Lays out each row of texts, which are in the order of their tokens, and pads the rows to one width."""
    trees = [grow(row) for row in rows]
    shape = len(trees), max(len(tree.ids) for tree in trees)
    n_texts = max(map(len, rows))
    ids, depth = np.full(shape, pad_id), np.zeros(shape, dtype=np.int64)
    parent = np.broadcast_to(np.arange(shape[1]), shape).copy()
    end = parent + 1  # padding sees itself, since a softmax over nothing is not a number
    pool = np.zeros((shape[0], n_texts, shape[1]), dtype=np.int64)
    for b, (tree, row) in enumerate(zip(trees, rows, strict=True)):
        width = len(tree.ids)
        ids[b, :width], depth[b, :width], parent[b, :width], end[b, :width] = (
            tree.ids, tree.depth, tree.parent, tree.end,
        )  # fmt: skip
        for s, (path, text) in enumerate(zip(tree.paths, row, strict=True)):
            pool[b, s, path] = text.pooled
    inputs = {"input_ids": torch.from_numpy(ids).to(device)}
    if n_texts > 1:
        at = torch.arange(shape[1], device=device)
        sees = (at[:, None] >= at) & (at[:, None] < torch.from_numpy(end).to(device)[:, None, :])
        mask = torch.zeros(sees.shape, dtype=dtype, device=device).masked_fill_(~sees, torch.finfo(dtype).min)
        inputs |= {"attention_mask": mask[:, None], "position_ids": torch.from_numpy(depth).to(device)}
    place = torch.tensor([b * n_texts + s for b, row in enumerate(rows) for s in range(len(row))], device=device)
    return TreeBatch(
        inputs["input_ids"],
        torch.from_numpy(parent).to(device),
        torch.from_numpy(pool).to(device),
        torch.tensor(list(example), device=device),
        place,
        sum(len(text.ids) for row in rows for text in row),
        inputs,
    )


def plan_rows(
    texts: Sequence[Encoded], longest: int, budget: int = BATCH_TOKENS, pass_cost: int = PASS_COST
) -> list[list[list[int]]]:
    """Batches of rows of texts, by number: plain rows of one text, or rows of texts that begin alike where that is cheaper.

    Args:
        texts: What is to be read.
        longest: The longest text that may share a row with another; 0 where the model cannot read trees.
        budget: Padded tokens in a batch.
        pass_cost: What starting one more forward pass costs, in tokens.
    """

    def in_batches(rows: list[list[int]], widths: list[int]) -> list[list[list[int]]]:
        return [[rows[j] for j in batch] for batch in plan_batches(widths, budget, pass_cost)]

    sizes = [len(text.ids) for text in texts]
    plain = in_batches([[i] for i in range(len(texts))], sizes)
    shorter = [i for i, size in enumerate(sizes) if size <= longest]
    if not shorter:
        return plain
    rows, widths = _in_rows(texts, shorter, budget)
    alone = [[i] for i, size in enumerate(sizes) if size > longest]
    trees = in_batches(rows, widths) + in_batches(alone, [sizes[i] for (i,) in alone])
    width = {tuple(row): n for row, n in zip(rows, widths, strict=True)} | {(i,): n for i, n in enumerate(sizes)}
    return min(plain, trees, key=lambda batches: sum(_cost(rows, width) + pass_cost for rows in batches))


def _cost(rows: list[list[int]], width: dict[tuple[int, ...], int]) -> float:
    """What a batch costs, in tokens of plain rows."""
    padded = max(width[tuple(row)] for row in rows)
    masked = any(len(row) > 1 for row in rows)
    return len(rows) * padded * (1 + masked * padded / MASK_COST)


def _in_rows(texts: Sequence[Encoded], chosen: Sequence[int], budget: int) -> tuple[list[list[int]], list[int]]:
    """Neighbours in the order of their tokens share a row until it is full; also how many nodes each row has."""
    rows, widths, limit = list[list[int]](), list[int](), 0
    before = np.zeros(0, dtype=np.int64)
    for i in sorted(chosen, key=lambda i: texts[i].ids):
        ids = np.array(texts[i].ids)
        new = len(ids) - _shared(before, ids)
        if rows and widths[-1] + new <= limit:
            rows[-1].append(i)
            widths[-1] += new
        else:
            rows.append([i])
            widths.append(len(ids))
            # A long beginning is worth a longer row, or most of each row would read it again.
            limit = min(max(ROW_NODES, 2 * len(ids)), budget)
        before = ids
    return rows, widths
