"""What steering showed is remembered: the same vectors, prompts, settings, model and code would write the same texts again."""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from probe.files import fingerprint, from_json, try_folder, without_nan, write_json
from probe.lm.frozen import FrozenLM
from probe.steering.look import Look
from probe.steering.measuring import SteeredText
from probe.version import closure, hashes, library_versions


@dataclass(frozen=True)
class Shown:
    """What one steering of a few prompts gave."""

    samples: list[SteeredText]
    random: list[list[SteeredText]] = field(default_factory=list)
    """One list per random direction, of all strengths but 0."""
    looks: list[Look] = field(default_factory=list)
    """What the largest dose did at each layer that was tried, the recommended one first."""
    steering_found: dict[str, Any] = field(default_factory=dict)
    """The doses and the recommended setting."""


def key_of(lm: FrozenLM, vectors: Sequence[Tensor], settings: dict[str, Any]) -> str:
    """Names all that the texts and their numbers depend on.

    Args:
        lm: The model that writes.
        vectors: What steers and what scores.
        settings: All else that was asked for, as JSON has it.
    """
    bits = [hashlib.sha256(vector.cpu().contiguous().numpy().tobytes()).hexdigest() for vector in vectors]
    computed = [lm.fingerprint, str(lm.model.dtype), lm.device.type, lm.encoder.reading]
    code = hashes(closure([Path(__file__).with_name("callback.py")]))
    return fingerprint([computed, bits, settings, library_versions(), code])


class Shelf:
    """A folder with one JSON file for each steering, sealed by the sha256 of what it holds."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def load(self, key: str) -> Shown | None:
        """What was shown under that key; None where nothing was, or where the file is damaged."""
        try:
            kept = from_json((self.folder / f"{key}.json").read_bytes())
            if fingerprint(kept["shown"]) != kept["sha256"]:
                return None
            shown = kept["shown"]
            return Shown(
                [_text(t) for t in shown["samples"]],
                [[_text(t) for t in arm] for arm in shown["random"]],
                [Look(**_with_nan(look, ("gain", "extra_nll", "repetition"))) for look in shown["looks"]],
                shown["steering_found"],
            )
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def save(self, key: str, shown: Shown) -> None:
        """Keeps what was shown."""
        try_folder(self.folder, "--model.cache_dir").mkdir(parents=True, exist_ok=True)
        value = without_nan(asdict(shown))
        write_json(self.folder / f"{key}.json", {"sha256": fingerprint(value), "shown": value})


def _text(kept: dict[str, Any]) -> SteeredText:
    return SteeredText(**_with_nan(kept, ("score", "extra_nll", "kl")))


def _with_nan(kept: dict[str, Any], numbers: Sequence[str]) -> dict[str, Any]:
    """JSON has null for what could not be computed; of these there is no other null."""
    return kept | {name: math.nan for name in numbers if kept[name] is None}
