"""probe: find what a language model holds inside about a concept such as creativity, measure it, and turn it up.

Shapes in every docstring: B batch, N examples, T tokens, L recorded layers, D hidden size, C score columns, K strengths,
R random directions. Layer k is the output of decoder block k, 0-based, everywhere: in code, YAML, files and plots.
"""

import importlib
from typing import Any

# Name -> room. Imported on first use, so that `python -m probe --help` does not wait for torch.
_ROOM_OF = {
    "ActivationExtractor": "activations",
    "Activations": "activations",
    "ActivationStore": "activations",
    "BagOfWords": "scorers",
    "ContrastData": "data",
    "Direction": "directions",
    "FrozenLM": "lm",
    "FrozenScorer": "scorers",
    "LDA": "scorers",
    "LMSpec": "spec",
    "Length": "scorers",
    "LinearProbe": "scorers",
    "LoRAProbe": "scorers",
    "LoRAWriter": "scorers",
    "MeanDifference": "scorers",
    "PCA": "scorers",
    "Passage": "rows",
    "Perplexity": "scorers",
    "ProbeError": "errors",
    "RandomDirections": "scorers",
    "RatedText": "rows",
    "Scorer": "scorers",
    "SelfJudgement": "scorers",
    "SteeringCallback": "steering_callback",
    "TextPair": "rows",
    "TypeTokenRatio": "scorers",
    "ablate": "hooks",
    "add": "hooks",
    "mean_difference": "directions",
    "read_rows": "rows",
    "record": "hooks",
}
__all__ = sorted(_ROOM_OF)


def __getattr__(name: str) -> Any:
    if name not in _ROOM_OF:
        raise AttributeError(f"module 'probe' has no attribute {name!r}")
    return getattr(importlib.import_module(f"probe.{_ROOM_OF[name]}"), name)
