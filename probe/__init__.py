"""probe: find what a language model holds inside about a concept such as creativity, measure it, and turn it up.

Shapes in every docstring: B batch, N examples, T tokens, L recorded layers, D hidden size, C score columns, K strengths,
R random directions. Layer k is the output of decoder block k, 0-based, everywhere: in code, YAML, files and plots.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # what a type checker and an editor see; at run time `__getattr__` finds them
    from probe.activations.extractor import ActivationExtractor as ActivationExtractor
    from probe.activations.pooling import Activations as Activations
    from probe.activations.store import ActivationStore as ActivationStore
    from probe.data.rated import RatedData as RatedData
    from probe.data.reading import Passage as Passage
    from probe.data.rows import RatedText as RatedText
    from probe.data.rows import TextPair as TextPair
    from probe.data.rows import read_rows as read_rows
    from probe.data.splits import ContrastData as ContrastData
    from probe.directions.direction import Direction as Direction
    from probe.directions.direction import mean_difference as mean_difference
    from probe.errors import ProbeError as ProbeError
    from probe.lm.frozen import FrozenLM as FrozenLM
    from probe.lm.hooks import edit as edit
    from probe.lm.hooks import record as record
    from probe.lm.operators import Operator as Operator
    from probe.lm.operators import clamp as clamp
    from probe.lm.operators import keeping_norm as keeping_norm
    from probe.lm.operators import plus as plus
    from probe.lm.operators import without as without
    from probe.lm.spec import LMSpec as LMSpec
    from probe.runs.run import Run as Run
    from probe.runs.run import load as load
    from probe.scorers import LDA as LDA
    from probe.scorers import PCA as PCA
    from probe.scorers import BagOfWords as BagOfWords
    from probe.scorers import FrozenScorer as FrozenScorer
    from probe.scorers import JoinedRidge as JoinedRidge
    from probe.scorers import Length as Length
    from probe.scorers import LinearProbe as LinearProbe
    from probe.scorers import LoRAProbe as LoRAProbe
    from probe.scorers import LoRAWriter as LoRAWriter
    from probe.scorers import MeanDifference as MeanDifference
    from probe.scorers import Perplexity as Perplexity
    from probe.scorers import RandomDirections as RandomDirections
    from probe.scorers import RidgeProbe as RidgeProbe
    from probe.scorers import Scorer as Scorer
    from probe.scorers import SelfJudgement as SelfJudgement
    from probe.scorers import SurfaceFeatures as SurfaceFeatures
    from probe.scorers import TypeTokenRatio as TypeTokenRatio
    from probe.steering.callback import SteeringCallback as SteeringCallback
    from probe.steering.witness import Exhibit as Exhibit
    from probe.steering.witness import Witness as Witness

# Name -> room. Imported on first use, so that `probe --help` does not wait for torch.
_ROOM_OF = {
    "ActivationExtractor": "activations.extractor",
    "Activations": "activations.pooling",
    "ActivationStore": "activations.store",
    "BagOfWords": "scorers",
    "ContrastData": "data.splits",
    "Direction": "directions.direction",
    "Exhibit": "steering.witness",
    "FrozenLM": "lm.frozen",
    "FrozenScorer": "scorers",
    "JoinedRidge": "scorers",
    "LDA": "scorers",
    "LMSpec": "lm.spec",
    "Length": "scorers",
    "LinearProbe": "scorers",
    "LoRAProbe": "scorers",
    "LoRAWriter": "scorers",
    "MeanDifference": "scorers",
    "Operator": "lm.operators",
    "PCA": "scorers",
    "Passage": "data.reading",
    "Perplexity": "scorers",
    "ProbeError": "errors",
    "RandomDirections": "scorers",
    "RatedData": "data.rated",
    "RatedText": "data.rows",
    "RidgeProbe": "scorers",
    "Run": "runs.run",
    "Scorer": "scorers",
    "SelfJudgement": "scorers",
    "SurfaceFeatures": "scorers",
    "SteeringCallback": "steering.callback",
    "TextPair": "data.rows",
    "TypeTokenRatio": "scorers",
    "Witness": "steering.witness",
    "__version__": "version",
    "clamp": "lm.operators",
    "edit": "lm.hooks",
    "keeping_norm": "lm.operators",
    "load": "runs.run",
    "mean_difference": "directions.direction",
    "plus": "lm.operators",
    "read_rows": "data.rows",
    "record": "lm.hooks",
    "without": "lm.operators",
}
__all__ = sorted(_ROOM_OF)


def __getattr__(name: str) -> Any:
    if name not in _ROOM_OF:
        raise AttributeError(f"module 'probe' has no attribute {name!r}")
    return getattr(importlib.import_module(f"probe.{_ROOM_OF[name]}"), name)
