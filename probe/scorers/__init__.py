"""The methods that are compared: a scorer is features of a language model and a head that turns them into scores."""

from probe.scorers.abilities import Compares, HasDirection, HasShift
from probe.scorers.bag_of_words import BagOfWords
from probe.scorers.base import Scorer
from probe.scorers.frozen import FrozenScorer
from probe.scorers.joined_ridge import JoinedRidge
from probe.scorers.lda import LDA
from probe.scorers.length import Length
from probe.scorers.linear_probe import LinearProbe
from probe.scorers.lora import LoRAScorer
from probe.scorers.lora_probe import LoRAProbe
from probe.scorers.lora_writer import LoRAWriter
from probe.scorers.mean_difference import MeanDifference
from probe.scorers.pca import PCA
from probe.scorers.perplexity import Perplexity
from probe.scorers.random_directions import RandomDirections
from probe.scorers.ridge_probe import RidgeProbe
from probe.scorers.self_judgement import SelfJudgement
from probe.scorers.surface_features import SurfaceFeatures
from probe.scorers.type_token_ratio import TypeTokenRatio

__all__ = [
    "LDA",
    "PCA",
    "BagOfWords",
    "Compares",
    "FrozenScorer",
    "HasDirection",
    "HasShift",
    "JoinedRidge",
    "Length",
    "LinearProbe",
    "LoRAProbe",
    "LoRAScorer",
    "LoRAWriter",
    "MeanDifference",
    "Perplexity",
    "RandomDirections",
    "RidgeProbe",
    "Scorer",
    "SelfJudgement",
    "SurfaceFeatures",
    "TypeTokenRatio",
]
