"""Reads the residual stream of a frozen LM: pooled three ways per layer in one pass, and never read twice.

mean_t cos(h_t, a) = a . mean_t(h_t / |h_t|), so `last`, `mean` and `unit_mean` hold all that a direction, a probe or
the paper's score ever needs of a text; no token states are stored.
"""

import hashlib
import json
import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from probe.activations.pooling import Activations, Spans
from probe.activations.store import FORMAT, ActivationStore
from probe.activations.transfer import to_host
from probe.data.reading import Passage
from probe.errors import ProbeError
from probe.lm.frozen import FrozenLM
from probe.lm.hooks import record
from probe.lm.tokens import BATCH_TOKENS, Encoded
from probe.lm.trees import TreeBatch, collate, plan_rows
from probe.progress import Advance, working

SHARD_TOKENS = 16 * BATCH_TOKENS
"""Tokens behind one shard on disk, or one batch where that is more: what a kill can lose at most."""


@dataclass
class Reads:
    """What reading cost so far, for the metrics file."""

    texts: int = 0
    tokens: int = 0
    nodes: int = 0
    """Tokens that the model was run on: fewer where texts begin alike."""
    passes: int = 0
    truncated: int = 0


class ActivationExtractor:
    """Pools the residual stream of passages at the given layers.

    Args:
        lm: The frozen model.
        layers: Blocks to read, 0-based; the forward pass stops after the deepest one.
        store: Where entries are remembered across runs; None remembers nothing.
    """

    def __init__(self, lm: FrozenLM, layers: Iterable[int] | None = None, store: ActivationStore | None = None) -> None:
        self.lm, self.store, self.reads = lm, store, Reads()
        self._encoded: dict[Passage, tuple[Encoded, str]] = {}
        self._too_many: float = math.inf  # padded tokens that did not fit
        self.answers: dict[Hashable, Any] = {}
        """What else this model was asked, for those who ask not to ask twice."""
        wanted = tuple(range(lm.n_layers) if layers is None else layers)
        if not wanted:
            raise ProbeError("--model.layers: expected at least one block, found []; leave it out to read all.")
        unknown = [k for k in wanted if not -lm.n_layers <= k < lm.n_layers]
        if unknown:
            raise ProbeError(
                f"--model.layers: {lm.spec.model} has blocks 0 to {lm.n_layers - 1}, found {unknown[0]}; choose among those."
            )
        self.layers = tuple(sorted({k % lm.n_layers for k in wanted}))

    def to_read(self, passages: Sequence[Passage]) -> tuple[int, int]:
        """How many texts, and how many tokens, a call would read; what is remembered it would not."""
        truncated = self.reads.truncated
        encoded, keys = self._encode(passages)
        if not self.store:
            self.reads.truncated = truncated  # they will be encoded, and counted, again
        by_key = dict(zip(keys, encoded, strict=True))
        missing = [key for batch in self._missing(by_key, self._known(keys)) for row in batch for key in row]
        return len(missing), sum(len(by_key[key].ids) for key in missing)

    def __call__(self, passages: Sequence[Passage], progress: bool | Advance = False) -> Activations:
        """Reads passages, from memory or disk where they were read before; what is told of progress is tokens.

        The batch plan depends on the whole set, never on what remains, so a resumed run computes the same numbers.
        """
        encoded, keys = self._encode(passages)
        by_key = dict(zip(keys, encoded, strict=True))
        row_of = {key: row for row, key in reversed(list(enumerate(keys)))}
        of_key = self._known(keys)
        missing = self._missing(by_key, of_key)
        shard: dict[str, Tensor] = {}
        waiting = 0
        n_tokens = sum(len(by_key[key].ids) for batch in missing for row in batch for key in row)
        shown = nullcontext(progress) if callable(progress) else working("reading", n_tokens, "tokens", progress)
        with shown as advance:

            def read(rows: list[list[str]]) -> Tensor:
                return self._read(
                    [[by_key[key] for key in row] for row in rows], [row_of[k] for row in rows for k in row]
                )

            for rows, entries in to_host((rows, read(rows)) for rows in missing):
                of_batch = [key for row in rows for key in row]
                numbers = [row_of[key] for key in of_batch]
                if len(rows) < len(of_batch) and not entries.isfinite().all():
                    # In a tree 0 x nan spreads to the texts beside: each alone shows whose it is.
                    entries = read([[key] for key in of_batch]).cpu()
                self._refuse_infinite(numbers, entries)
                shard |= {key: entry for key, entry in zip(of_batch, entries, strict=True) if key not in of_key}
                waiting += sum(len(by_key[key].ids) for key in of_batch)
                if self.store and (waiting >= SHARD_TOKENS or rows is missing[-1]):
                    self.store.save(shard)
                    of_key |= self._known(list(shard))  # mapped from its file
                    shard, waiting = {}, 0
                advance(sum(len(by_key[key].ids) for key in of_batch))
        of_key |= shard
        n_tokens_pooled = torch.tensor([sum(e.pooled) for e in encoded], dtype=torch.long)
        return Activations([of_key[key] for key in keys], n_tokens_pooled, self.layers, self.lm.hidden_size)

    def _known(self, keys: Sequence[str]) -> dict[str, Tensor]:
        return self.store.load(keys, (len(self.layers), self.lm.hidden_size)) if self.store else {}

    def _missing(self, by_key: Mapping[str, Encoded], of_key: Mapping[str, Tensor]) -> list[list[list[str]]]:
        """The batches of rows of texts, as keys, in which something is not known yet."""
        if all(key in of_key for key in by_key):
            return []  # and the model is not asked what it can read
        keys = list(by_key)
        plan = plan_rows(list(by_key.values()), self.lm.longest_in_tree, self.lm.batch_tokens)
        batches = [[[keys[i] for i in row] for row in batch] for batch in plan]
        return [batch for batch in batches if any(key not in of_key for row in batch for key in row)]

    def _collate(self, rows: Sequence[Sequence[Encoded]], example: Sequence[int]) -> TreeBatch:
        return collate(rows, example, self.lm.encoder.pad_id, self.lm.model.dtype, self.lm.device)

    def _encode(self, passages: Sequence[Passage]) -> tuple[list[Encoded], list[str]]:
        """Token ids and key of each passage; what is remembered is tokenised once."""
        new = [passage for passage in dict.fromkeys(passages) if passage not in self._encoded]
        fresh = {p: (e, self._key(e)) for p, e in zip(new, self.lm.encoder.encode(new), strict=True)}
        self.reads.truncated += sum(e.truncated for e, _ in fresh.values())
        known = self._encoded | fresh
        if self.store:
            self._encoded = known
        of_passage = [known[passage] for passage in passages]
        return [e for e, _ in of_passage], [key for _, key in of_passage]

    def states(self, encoded: Sequence[Encoded], rows: Sequence[int]) -> Tensor:
        """Reads some rows of encoded texts `[B, 3, L, D]` on the LM's device; with gradient where it is on, never remembered."""
        texts = [encoded[row] for row in rows]
        plan = plan_rows(texts, self.lm.longest_in_tree, self.lm.batch_tokens)
        parts = []
        for part in plan:
            batch = self._collate([[texts[i] for i in row] for row in part], [rows[i] for row in part for i in row])
            parts.append(self._pass(batch))
            self._refuse_infinite(batch.example.tolist(), parts[-1])
        return torch.cat(parts)[torch.tensor([i for part in plan for row in part for i in row]).argsort()]

    def _refuse_infinite(self, numbers: Sequence[int], entries: Tensor) -> None:
        if not entries.isfinite().all():
            bad = torch.tensor(numbers)[~entries.isfinite().flatten(1).all(1).cpu()].tolist()
            raise ProbeError(
                f"{self.lm.spec.model} gave activations that are not finite for {len(bad)} texts (first: row {bad[0]}); "
                "float16 overflows in many models: use --lm.dtype bfloat16 or float32."
            )

    @torch.inference_mode()
    def _read(self, texts: Sequence[Sequence[Encoded]], numbers: Sequence[int]) -> Tensor:
        """Pools rows of texts `[N, 3, L, D]`; where the device's memory is too small for them, half of them at a time."""
        batch = self._collate(texts, numbers)
        size = batch.input_ids.numel()
        if len(numbers) == 1 or size < self._too_many:
            try:
                return self._pass(batch)
            except torch.OutOfMemoryError as error:
                if len(numbers) == 1:
                    raise ProbeError(
                        f"The device's memory is too small for a text of {size} tokens; use a smaller --lm.dtype or "
                        f"--lm.max_tokens, or --lm.device cpu ({error})."
                    ) from error
                self._too_many = size
            torch.cuda.empty_cache()  # outside `except`, whose traceback holds what was computed so far
        halves = (texts[: len(texts) // 2], texts[len(texts) // 2 :])
        if len(texts) == 1:
            halves = ([texts[0][: len(numbers) // 2]], [texts[0][len(numbers) // 2 :]])
        at = sum(map(len, halves[0]))
        return torch.cat([self._read(halves[0], numbers[:at]), self._read(halves[1], numbers[at:])])

    def _pass(self, batch: TreeBatch) -> Tensor:
        spans, pooled = Spans(batch.pool_mask), dict[int, Tensor]()

        def read(k: int, h: Tensor) -> None:
            pooled[k] = torch.stack(spans(h), 2).flatten(0, 1)[batch.place]

        with record({k: self.lm.blocks[k] for k in self.layers}, read):
            self.lm.decoder(**batch.inputs, use_cache=False)  # no head, no cache
        entries = torch.stack([pooled[k] for k in self.layers], 2)  # [N, 3, L, D]
        self.reads.texts += len(entries)
        self.reads.tokens += batch.n_tokens
        self.reads.nodes += batch.input_ids.numel()
        self.reads.passes += 1
        return entries

    def _key(self, encoded: Encoded) -> str:
        what = [FORMAT, self.lm.fingerprint, str(self.lm.model.dtype), self.layers, encoded.ids, encoded.pooled]
        return hashlib.sha256(json.dumps(what).encode()).hexdigest()
