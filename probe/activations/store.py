"""What was pooled, remembered on disk by content: never torn, never stale, the same from two processes."""

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from probe.activations.pooling import POOLINGS
from probe.files import atomic_write, from_json, try_folder

FORMAT = 1


class ActivationStore:
    """A folder of safetensors shards, each with a manifest that names its entries and its sha256.

    The manifest is written last and names the shard by the hash of its keys, so a half-written shard is never seen,
    a changed one is noticed, and two processes that read the same texts write the same file.
    """

    def __init__(self, folder: str | Path, warn: Callable[[str], None] = lambda _: None) -> None:
        self.folder, self.warn = Path(folder), warn
        self._memory: dict[str, Tensor] = {}
        try_folder(self.folder, "--model.cache_dir").mkdir(parents=True, exist_ok=True)

    def load(self, keys: Sequence[str], shape: tuple[int, int]) -> dict[str, Tensor]:
        """Returns the remembered entries `[3, L, D]` among `keys`; a damaged or misshapen shard is reported and left out."""
        wanted = {key for key in keys if key not in self._memory}
        for manifest in sorted(self.folder.glob("*.json")) if wanted else ():
            shard = manifest.with_suffix(".safetensors")
            try:
                listed = from_json(manifest.read_text())
                if wanted.isdisjoint(listed["keys"]):
                    continue
                if hashlib.sha256(shard.read_bytes()).hexdigest() != listed["sha256"]:
                    raise ValueError("its sha256 is not the one written down")
                entries = load_file(shard)["entries"]
                if entries.shape[:2] != (len(listed["keys"]), len(POOLINGS)) or entries.shape[2:] != shape:
                    raise ValueError(f"its entries have the shape {tuple(entries.shape)}")
                if entries.dtype != torch.float32 or not entries.isfinite().all():
                    raise ValueError("its entries are not finite numbers in float32")
                by_key = dict(zip(listed["keys"], entries, strict=True))
            except (OSError, ValueError, LookupError, TypeError, RecursionError, SafetensorError) as error:
                self.warn(f"{shard.name} in {self.folder} is damaged ({error}); its texts are read again.")
                continue
            self._memory |= {key: by_key[key] for key in wanted & by_key.keys()}
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
        self._memory |= zip(keys, load_file(shard)["entries"], strict=True)  # mapped, not held
