"""Reads the residual stream of a frozen LM: pooled three ways per layer in one pass, and never read twice.

mean_t cos(h_t, a) = a . mean_t(h_t / |h_t|), so `last`, `mean` and `unit_mean` hold all that a direction, a probe or
the paper's score ever needs of a text; no token states are stored.
"""

import hashlib
import json
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.progress import track
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from probe.errors import ProbeError
from probe.files import atomic_write
from probe.hooks import record
from probe.lm import FrozenLM
from probe.rows import Passage, Pooling
from probe.tokens import BATCH_TOKENS, Encoded, TokenBatch, plan_batches

POOLINGS: tuple[Pooling, ...] = ("last", "mean", "unit_mean")
FORMAT = 1
SHARD_TOKENS = 16 * BATCH_TOKENS
"""Padded tokens behind one shard on disk: what a kill can lose at most."""


@dataclass(frozen=True)
class Activations:
    """Pooled residual states of N texts at L layers."""

    last: Tensor
    """`[N, L, D]` h at the last token of the span."""
    mean: Tensor
    """`[N, L, D]` mean of h over the span."""
    unit_mean: Tensor
    """`[N, L, D]` mean of h/|h| over the span: its product with a unit direction is the paper's score."""
    n_tokens: Tensor
    """`[N]` tokens in the span."""
    layers: tuple[int, ...]

    def __getitem__(self, rows: Tensor) -> "Activations":
        return Activations(self.last[rows], self.mean[rows], self.unit_mean[rows], self.n_tokens[rows], self.layers)

    def pooled(self, pooling: Pooling) -> Tensor:
        """One pooling `[N, L, D]` by name."""
        tensor: Tensor = getattr(self, pooling)
        return tensor


def pool(h: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Pools `[B, T, D]` states over a `[B, T]` mask into `last`, `mean`, `unit_mean`, each `[B, D]` float32."""
    h = h.float()
    weights = (mask / mask.sum(1, keepdim=True)).to(h)[:, None, :]
    last_token = (mask * torch.arange(1, mask.shape[1] + 1, device=mask.device)).argmax(1)
    last = h[torch.arange(len(h), device=h.device), last_token]
    # Norms go into the weights, so h/|h| is never stored: [B, 1, T] @ [B, T, D].
    unit_weights = weights / h.norm(dim=-1).clamp_min(torch.finfo(torch.float32).tiny)[:, None, :]
    return last, (weights @ h)[:, 0], (unit_weights @ h)[:, 0]


@dataclass
class Reads:
    """What reading cost so far, for the metrics file."""

    texts: int = 0
    tokens: int = 0
    passes: int = 0
    truncated: int = 0


class ActivationExtractor:
    """Pools the residual stream of passages at the given layers.

    Args:
        lm: The frozen model.
        layers: Blocks to read, 0-based; the forward pass stops after the deepest one.
        store: Where entries are remembered across runs; None remembers nothing.
    """

    def __init__(
        self, lm: FrozenLM, layers: Iterable[int] | None = None, store: "ActivationStore | None" = None
    ) -> None:
        self.lm, self.store, self.reads = lm, store, Reads()
        self._encoded: dict[Passage, tuple[Encoded, str]] = {}
        wanted = tuple(range(lm.n_layers) if layers is None else layers)
        unknown = [k for k in wanted if not -lm.n_layers <= k < lm.n_layers]
        if unknown:
            raise ProbeError(
                f"--model.layers: {lm.spec.model} has blocks 0 to {lm.n_layers - 1}, found {unknown[0]}; choose among those."
            )
        self.layers = tuple(sorted({k % lm.n_layers for k in wanted}))

    def __call__(self, passages: Sequence[Passage], progress: bool = False) -> Activations:
        """Reads passages, from memory or disk where they were read before.

        The batch plan depends on the whole set, never on what remains, so a resumed run computes the same numbers.
        """
        encoded, keys = self._encode(passages)
        unique = list(dict.fromkeys(keys))
        by_key = dict(zip(keys, encoded, strict=True))
        row_of = {key: row for row, key in reversed(list(enumerate(keys)))}
        found = self.store.load(unique) if self.store else {}
        plan = plan_batches([len(by_key[key].ids) for key in unique])
        missing = [rows for rows in plan if any(unique[i] not in found for i in rows)]
        shard: dict[str, Tensor] = {}
        waiting = 0
        for rows in track(missing, "reading the LM", disable=not (progress and sys.stdout.isatty())):
            batch = self.lm.collate([by_key[unique[i]] for i in rows], [row_of[unique[i]] for i in rows])
            entries = self._read(batch)
            shard |= {unique[i]: entry for i, entry in zip(rows, entries, strict=True) if unique[i] not in found}
            waiting += batch.input_ids.numel()
            if self.store and (waiting >= SHARD_TOKENS or rows is missing[-1]):
                self.store.save(shard)
                found |= shard
                shard, waiting = {}, 0
        found |= shard
        last, mean, unit_mean = torch.stack([found[key] for key in keys]).unbind(1)
        return Activations(last, mean, unit_mean, torch.tensor([sum(e.pooled) for e in encoded]), self.layers)

    def _encode(self, passages: Sequence[Passage]) -> tuple[list[Encoded], list[str]]:
        """Token ids and key of each passage; what is remembered is tokenised once."""
        new = [passage for passage in dict.fromkeys(passages) if passage not in self._encoded]
        fresh = {p: (e, self._key(e)) for p, e in zip(new, self.lm.encode(new), strict=True)}
        self.reads.truncated += sum(e.truncated for e, _ in fresh.values())
        known = self._encoded | fresh
        if self.store:
            self._encoded = known
        found = [known[passage] for passage in passages]
        return [e for e, _ in found], [key for _, key in found]

    def states(self, encoded: Sequence[Encoded], rows: Sequence[int]) -> Tensor:
        """Reads some rows of encoded texts `[B, 3, L, D]` on the LM's device; with gradient where it is on, never remembered."""
        plan = plan_batches([len(encoded[row].ids) for row in rows])
        parts = [
            self._pass(self.lm.collate([encoded[rows[i]] for i in part], [rows[i] for i in part])) for part in plan
        ]
        return torch.cat(parts)[torch.tensor([i for part in plan for i in part]).argsort()]

    @torch.inference_mode()
    def _read(self, batch: TokenBatch) -> Tensor:
        return self._pass(batch).cpu()

    def _pass(self, batch: TokenBatch) -> Tensor:
        pooled: dict[int, Tensor] = {}

        def read(k: int, h: Tensor) -> None:
            pooled[k] = torch.stack(pool(h, batch.pool_mask), 1)

        with record({k: self.lm.blocks[k] for k in self.layers}, read):
            # No head, no cache; no mask either: padding is on the right, where causal attention never looks.
            self.lm.decoder(input_ids=batch.input_ids, use_cache=False)
        entries = torch.stack([pooled[k] for k in self.layers], 2)  # [B, 3, L, D]
        if not entries.isfinite().all():
            bad = batch.example[~entries.isfinite().flatten(1).all(1)].tolist()
            raise ProbeError(
                f"{self.lm.spec.model} gave activations that are not finite for {len(bad)} texts (first: row {bad[0]}); "
                "float16 overflows in many models: use --lm.dtype bfloat16 or float32."
            )
        self.reads.texts += len(entries)
        self.reads.tokens += int(batch.attention_mask.sum())
        self.reads.passes += 1
        return entries

    def _key(self, encoded: Encoded) -> str:
        what = [FORMAT, self.lm.fingerprint, str(self.lm.model.dtype), self.layers, encoded.ids, encoded.pooled]
        return hashlib.sha256(json.dumps(what).encode()).hexdigest()


class ActivationStore:
    """A folder of safetensors shards, each with a manifest that names its entries and its sha256.

    The manifest is written last and names the shard by the hash of its keys, so a half-written shard is never seen,
    a changed one is noticed, and two processes that read the same texts write the same file.
    """

    def __init__(self, folder: str | Path, warn: Callable[[str], None] = lambda _: None) -> None:
        self.folder, self.warn = Path(folder), warn
        self._memory: dict[str, Tensor] = {}
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.folder):
                pass
        except OSError as error:
            raise ProbeError(
                f"{folder}: cannot write activations there ({error}); choose another --model.cache_dir."
            ) from error

    def load(self, keys: Sequence[str]) -> dict[str, Tensor]:
        """Returns the remembered entries `[3, L, D]` among `keys`; a damaged shard is reported and left out."""
        wanted = {key for key in keys if key not in self._memory}
        for manifest in sorted(self.folder.glob("*.json")) if wanted else ():
            shard = manifest.with_suffix(".safetensors")
            try:
                listed = json.loads(manifest.read_text())
                if wanted.isdisjoint(listed["keys"]):
                    continue
                if hashlib.sha256(shard.read_bytes()).hexdigest() != listed["sha256"]:
                    raise ValueError("its sha256 is not the one written down")
                entries = load_file(shard)["entries"]
            except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
                self.warn(f"{shard.name} in {self.folder} is damaged ({error}); its texts are read again.")
                continue
            self._memory |= {key: entry for key, entry in zip(listed["keys"], entries, strict=True) if key in wanted}
        return {key: self._memory[key] for key in keys if key in self._memory}

    def save(self, entries: dict[str, Tensor]) -> None:
        """Writes one shard and then its manifest, each under a temporary name, flushed and renamed."""
        keys = sorted(entries)
        path = self.folder / hashlib.sha256("".join(keys).encode()).hexdigest()[:32]
        shard = path.with_suffix(".safetensors")
        atomic_write(
            shard, lambda temporary: save_file({"entries": torch.stack([entries[key] for key in keys])}, temporary)
        )
        manifest = {"format": FORMAT, "sha256": hashlib.sha256(shard.read_bytes()).hexdigest(), "keys": keys}
        atomic_write(path.with_suffix(".json"), lambda temporary: temporary.write_text(json.dumps(manifest)))
        self._memory |= entries
