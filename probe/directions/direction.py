"""Directions in the residual stream: how they are computed, what they carry, how they are saved.

Functions on sums or on `[N, L, D]` activations; no LM, no Trainer.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torchmetrics import Metric

from probe.directions.card import PER_LAYER, check_card, check_tensors
from probe.errors import ProbeError
from probe.files import atomic_write, from_json
from probe.logs import direction_folder


@dataclass(frozen=True)
class Direction:
    """One unit vector per layer, with what is needed to use, scale and trust it."""

    vectors: Tensor
    """`[L, D]` unit norm."""
    layers: tuple[int, ...]
    residual_gap: Tensor
    """`[L]` distance of the class means in the residual stream."""
    residual_norm: Tensor
    """`[L]` typical norm of a pooled state."""
    score_midpoint: Tensor
    """`[L]` score half-way between the classes."""
    score_gap: Tensor
    """`[L]` difference of the classes' mean scores."""
    chosen: int | None = None
    """The layer to use, a block number; None before it was chosen."""
    provenance: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        assert self.vectors.shape[0] == len(self.layers), "one vector per layer"

    def at(self, layer: int) -> Tensor:
        """The unit vector `[D]` of one block."""
        if layer not in self.layers:
            raise ProbeError(f"this direction holds layers {list(self.layers)}, found {layer}; choose one of those.")
        return self.vectors[self.layers.index(layer)]

    def strength(self, value: float, unit: str, layer: int) -> float:
        """Converts a strength to absolute lambda: doses, class gaps, shares of the residual norm, or as it is.

        Raises:
            ProbeError: for an unknown unit, a number that is not finite, or a layer whose dose was not measured.
        """
        if not math.isfinite(value):
            raise ProbeError(f"--strength: expected finite numbers, found {value}; 2 class gaps are a good start.")
        self.at(layer)
        row = self.layers.index(layer)
        scale = {"absolute": 1.0, "gap": float(self.residual_gap[row]), "norm": float(self.residual_norm[row])}
        doses = self.provenance.get("dose", {}).get("of_layer", {})
        if unit == "dose" and str(layer) not in doses:
            raise ProbeError(
                f"--strength_unit dose: this direction knows the dose of layers {sorted(map(int, doses))}, found layer {layer}; "
                "choose one of those, or the unit norm."
            )
        if unit == "dose":
            scale["dose"] = float(doses[str(layer)])
        if unit not in scale:
            raise ProbeError(f"strength_unit: expected one of {sorted(scale)}, found {unit!r}; correct the config.")
        length = value * scale[unit]
        if not abs(length) < torch.finfo(torch.float32).max:
            raise ProbeError(
                f"--strength {value:g}: expected a length that float32 can hold, found more; 2 class gaps are much."
            )
        return length

    def deltas(self, value: float, unit: str, layers: Sequence[int]) -> dict[int, Tensor]:
        """What steering adds after each of these blocks: layer -> lambda * a `[D]`; several layers share the strength out."""
        return {k: self.strength(value / len(layers), unit, k) * self.at(k) for k in layers}

    @property
    def recommended(self) -> "Recommended":
        """How to steer with it: what was found best, else one dose; whoever steers measures it where it is not known yet."""
        said = self.provenance.get("recommended") or {}
        layers = as_layers(said.get("layer", self.chosen if self.chosen is not None else ()))
        how = (said.get("strength", 1.0), said.get("strength_unit", "dose"), said.get("tokens", "all"))
        return Recommended(layers, *how, said.get("operator", "plus"))

    def save(self, folder: Path) -> Path:
        """Writes `direction.safetensors` and `direction.json` into a folder."""
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {name: getattr(self, name).detach().cpu().contiguous() for name in ("vectors", *PER_LAYER)}
        card = {"layers": list(self.layers), "chosen": self.chosen, "provenance": self.provenance}
        atomic_write(folder / "direction.safetensors", lambda path: save_file(tensors, path))
        atomic_write(folder / "direction.json", lambda path: path.write_text(json.dumps(card, indent=2) + "\n"))
        return folder

    @classmethod
    def load(cls, folder: str | Path) -> "Direction":
        """Reads what `save` wrote, from its folder or from that of its run.

        Raises:
            ProbeError: where a file is missing or damaged.
        """
        folder = direction_folder(folder)
        try:
            tensors = load_file(folder / "direction.safetensors")
            card = from_json((folder / "direction.json").read_text(encoding="utf-8"))
            check_card(card)
            check_tensors(tensors, len(card["layers"]))
            return cls(**tensors, layers=tuple(card["layers"]), chosen=card["chosen"], provenance=card["provenance"])
        except (OSError, ValueError, KeyError, TypeError, RecursionError, SafetensorError) as error:
            raise ProbeError(f"{folder}: expected a saved direction, found none that can be read ({error}).") from error

    def check_fits(self, hidden_size: int, n_layers: int, fingerprint: str, other_model: bool = False) -> None:
        """Refuses a model of another shape, and another fine-tune unless `other_model` says so."""
        if self.vectors.shape[1] != hidden_size or max(self.layers) >= n_layers:
            raise ProbeError(
                f"this direction is for {max(self.layers) + 1} or more layers of width {self.vectors.shape[1]}, found a "
                f"model with {n_layers} layers of width {hidden_size}; use the model it was made with."
            )
        if not other_model and self.provenance.get("lm_fingerprint", fingerprint) != fingerprint:
            raise ProbeError(
                f"this direction was made with other weights ({self.provenance.get('lm')}); --other_model true admits it."
            )


@dataclass(frozen=True)
class Recommended:
    """How to steer with a direction."""

    layers: list[int]
    strength: float
    unit: str
    tokens: Any
    """`all`, `prompt` or `generated`."""
    operator: str = "plus"
    """What is done with it, by name."""


def as_layers(layer: int | Sequence[int]) -> list[int]:
    """One layer or several, each once."""
    return [layer] if isinstance(layer, int) else list(dict.fromkeys(layer))


class ClassSums(Metric):
    """Counts and sums of two classes' activations: all a mean difference needs, in O(L x D), for any batch order.

    The states add up across processes; float64, so that a stream and one batch agree.
    """

    full_state_update = False
    count: Tensor
    total: Tensor
    norm: Tensor

    def __init__(self, n_layers: int, width: int) -> None:
        super().__init__()
        self.add_state("count", torch.zeros(2, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("total", torch.zeros(2, n_layers, width, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("norm", torch.zeros(n_layers, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, h: Tensor, label: Tensor) -> None:
        """Adds activations `[B, L, D]` with labels `[B]`, 1 creative and 0 uncreative."""
        onehot = torch.stack([label == 0, label == 1]).to(torch.float64)
        self.count += onehot.sum(1)
        self.total += torch.einsum("cb,bld->cld", onehot, h.double())
        self.norm += (onehot.sum(0)[:, None] * h.double().norm(dim=-1)).sum(0)

    def compute(self) -> tuple[Tensor, Tensor]:
        """Returns class means `[2, L, D]` (uncreative, creative) and the mean norm `[L]`."""
        return self.total / self.count[:, None, None], self.norm / self.count.sum()


def mean_difference(means: Tensor) -> tuple[Tensor, Tensor]:
    """Unit directions `[L, D]` and gaps `[L]` from class means `[2, L, D]`: a = normalize(mean creative - mean uncreative).

    Source: Olson et al. 2024, arXiv 2412.06060, section 3.
    """
    difference = (means[1] - means[0]).float()
    gap = difference.norm(dim=-1)
    return difference / gap.clamp_min(torch.finfo(torch.float32).tiny)[:, None], gap


def mean_difference_of(h: Tensor, labels: Sequence[int]) -> Tensor:
    """Unit directions `[L, D]` of states `[N, L, D]` in one batch; those labelled neither 1 nor 0 count for nothing.

    Not by `ClassSums`, which waits for the other processes: the first one alone may ask.
    """
    label = torch.tensor(labels)
    return mean_difference(torch.stack([h[label == side].double().mean(0) for side in (0, 1)]))[0]


def cosine_scores(unit_mean: Tensor, vectors: Tensor) -> Tensor:
    """The paper's score `[N, L]` of texts: s_k(x) = mean_t cos(h_k(x)_t, a_k) = a_k . mean_t(h_t / |h_t|)."""
    return torch.einsum("nld,ld->nl", unit_mean, vectors.to(unit_mean))


def random_directions(count: int, layers: Sequence[int], width: int, seed: int) -> Tensor:
    """Unit vectors `[count, L, D]`, uniform on the sphere."""
    vectors = torch.randn(count, len(layers), width, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(vectors, dim=-1)
