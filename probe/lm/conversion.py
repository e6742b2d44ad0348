"""A GGUF file becomes an ordinary model folder once, in the cache, under the sha256 of its bytes."""

import hashlib
import io
import shutil
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

import torch
import transformers
from filelock import FileLock
from gguf import GGUFReader
from transformers import AutoModelForCausalLM, AutoTokenizer

from probe.errors import ProbeError
from probe.files import from_json, write_json
from probe.lm.sources import cache_folder
from probe.progress import waiting

FORMAT = 1
"""Counts up when a conversion has to be done again."""


def converted(file: Path) -> Path:
    """The folder with config, tokenizer and float32 safetensors of a GGUF file; made where it is not there yet.

    Raises:
        ProbeError: for a file that is truncated or holds no language model, and where there is no room for the folder.
    """
    with file.open("rb") as opened:
        sha256 = hashlib.file_digest(opened, "sha256").hexdigest()
    models = cache_folder() / "models"
    folder = models / f"{sha256}-{FORMAT}"
    models.mkdir(parents=True, exist_ok=True)
    with FileLock(models / f"{folder.name}.lock"):  # a second process waits, and finds it done
        if not _is_whole(folder):
            n_bytes = 4 * _n_weights(file)
            if shutil.disk_usage(models).free < 1.1 * n_bytes:
                raise ProbeError(
                    f"{models}: expected room for {n_bytes / 1e6:,.0f} MB, the weights of {file.name} in float32, found less; "
                    "free some, or set PROBE_CACHE to another folder."
                )
            partial = models / f"{folder.name}.partial"
            for left in (partial, folder):  # by a process that was killed, or damaged since
                shutil.rmtree(left, ignore_errors=True)
            text = f"Converting {file.name} once, to {n_bytes / 1e6:,.0f} MB in {models} ..."
            with waiting(text), redirect_stderr(io.StringIO()):  # no bars and warnings of the libraries at work
                _convert(file, partial)
            sizes = {entry.name: entry.stat().st_size for entry in partial.iterdir()}
            write_json(partial / "source.json", {"file": file.name, "sha256": sha256, "sizes": sizes})
            partial.rename(folder)
    return folder


def _convert(file: Path, folder: Path) -> None:
    options: dict[str, Any] = {"dtype": torch.float32, "output_loading_info": True}
    if hasattr(transformers, "GgufConfig"):  # since 5.24 weights stay packed where the machine has a kernel for them
        options["quantization_config"] = transformers.GgufConfig(dequantize=True)
    read: Any = AutoModelForCausalLM.from_pretrained
    model, report = read(file.parent, gguf_file=file.name, **options)
    if lacking := sorted(report["missing_keys"]):
        raise ProbeError(
            f"{file}: expected all weights, found {len(lacking)} missing ({lacking[0]} first); get it again."
        )
    # The weights are plain numbers by now; saving would refuse them as quantised ones.
    model.hf_quantizer, model.is_quantized = None, False
    vars(model.config).pop("quantization_config", None)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name).save_pretrained(folder)


def _n_weights(file: Path) -> int:
    """Number of weights; reading the header and where the tensors lie shows whether the file is whole."""
    try:
        return sum(int(tensor.n_elements) for tensor in GGUFReader(file).tensors)
    except (ValueError, IndexError, KeyError, OSError, OverflowError, MemoryError) as error:
        raise ProbeError(f"{file}: expected a whole GGUF file, found a damaged one ({error}); get it again.") from error


def _is_whole(folder: Path) -> bool:
    try:
        sizes = from_json((folder / "source.json").read_text(encoding="utf-8"))["sizes"]
        return all((folder / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False
