"""The methods that are compared: a scorer is features of a language model and a head that turns them into scores."""

from probe.scorers.base import HasDirection, Scorer
from probe.scorers.linear_probe import LinearProbe
from probe.scorers.mean_difference import MeanDifference

__all__ = ["HasDirection", "LinearProbe", "MeanDifference", "Scorer"]
