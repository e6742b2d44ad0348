"""A saved direction at the door: its card has fields of the right types, its tensors their shapes, every number is finite."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, get_args

from torch import Tensor

from probe.data.reading import Pooling, Span
from probe.data.texts import readable
from probe.lm.spec import Unit

PER_LAYER = ("residual_gap", "residual_norm", "score_midpoint", "score_gap")
"""What a direction holds beside its vectors: a number `[L]` each."""
TEXTS = ("method", "lm", "lm_fingerprint", "data_fingerprint")
ONE_OF = {"span": get_args(Span), "pooling": get_args(Pooling), "lm_dtype": ("float32", "bfloat16", "float16")}
ONE_OF_RECOMMENDED = {"strength_unit": get_args(Unit), "tokens": ("all", "prompt", "generated")}


def check_card(card: Any) -> None:
    """Raises ValueError, KeyError or TypeError where a field that is used later could not be; others are not judged."""
    layers, chosen, made = card["layers"], card["chosen"], card["provenance"]
    if not layers or not _blocks(layers, layers) or len(set(layers)) < len(layers):
        raise ValueError(f"`layers` has to list different blocks, found {layers!r}")
    if chosen is not None and not _blocks([chosen], layers):
        raise ValueError(f"`chosen` has to be one of its layers, found {chosen!r}")
    if not isinstance(made, dict) or not isinstance(made.get("recommended") or {}, dict):
        raise ValueError("`provenance`, and what it recommends, have to be objects")
    for name in TEXTS:
        if not isinstance(made.get(name, ""), str):
            raise ValueError(f"`{name}` has to be a text, found {made[name]!r}")
    if not isinstance(system := made.get("lm_system"), str | None):
        raise ValueError(f"`lm_system` has to be a text or null, found {system!r}")
    for name in ("lm", "lm_system"):
        readable(made.get(name) or "", f"`{name}`")
    told = made.get("lm_chat_template_kwargs", {})
    if not isinstance(told, dict) or not all(isinstance(value, str | int | float | None) for value in told.values()):
        raise ValueError(f"`lm_chat_template_kwargs` has to hold texts, numbers and nulls by name, found {told!r}")
    _check_dose(made.get("dose", {"of_layer": {}}), layers)
    recommended = made.get("recommended") or {}
    steered = recommended.get("layer", layers)
    if not _blocks(steered if isinstance(steered, list) else [steered], layers):
        raise ValueError(f"the recommended layer has to be one of its layers, found {steered!r}")
    if isinstance(recommended.get("strength"), bool) or not math.isfinite(recommended.get("strength", 0.0)):
        raise ValueError(f"the recommended strength has to be a finite number, found {recommended['strength']!r}")
    doses = made.get("dose", {}).get("of_layer", {}).values()
    if not all(isinstance(dose, float) and 0 < dose < math.inf for dose in doses):
        raise ValueError(f"doses have to be finite lengths above 0, found {list(doses)}")
    if not isinstance(recommended.get("operator", ""), str):
        raise ValueError(f"the recommended operator has to be a name, found {recommended['operator']!r}")
    _check_words(made, ONE_OF)
    _check_words(recommended, ONE_OF_RECOMMENDED)


def _check_dose(dose: Any, layers: Sequence[int]) -> None:
    for layer, length in dose["of_layer"].items() if isinstance(dose["of_layer"], dict) else [("", dose)]:
        if layer not in map(str, layers) or type(length) is not float or not 0 < length < math.inf:
            raise ValueError(
                f"`dose` has to give one of its layers a positive number each, found {layer!r}: {length!r}"
            )


def _blocks(said: Any, layers: Sequence[int]) -> bool:
    return isinstance(said, list) and all(type(k) is int and k >= 0 and k in layers for k in said)


def _check_words(section: Mapping[str, Any], one_of: Mapping[str, Sequence[str]]) -> None:
    for name, known in one_of.items():
        if section.get(name, known[0]) not in known:
            raise ValueError(f"`{name}` has to be one of {', '.join(known)}, found {section[name]!r}")


def check_tensors(tensors: Mapping[str, Tensor], n_layers: int) -> None:
    """Raises ValueError or KeyError unless each layer has a unit vector and a number of each kind, all finite."""
    vectors = tensors["vectors"]
    if vectors.ndim != 2 or len(vectors) != n_layers:
        raise ValueError(f"{n_layers} layers, and vectors of shape {tuple(vectors.shape)}")
    for name in PER_LAYER:
        if tensors[name].shape != (n_layers,):
            raise ValueError(f"{n_layers} layers, and `{name}` of shape {tuple(tensors[name].shape)}")
    for name, tensor in tensors.items():
        if not tensor.is_floating_point() or not tensor.isfinite().all():
            raise ValueError(f"`{name}` holds something else than finite numbers")
    lengths = vectors.float().norm(dim=-1)
    if not (((lengths - 1).abs() < 1e-2) | (lengths == 0)).all():  # 0 where the classes do not differ at all
        raise ValueError(f"its vectors have to be of length 1, found {lengths.tolist()}")
