"""Criteria: importance scores for the elements of weights and for units. Higher = keep.

A criterion is given by its name, or as an object where it has arguments:
`criterion="taylor"` or `criterion=tfprune.criteria.Taylor(aggregate="max", normalize="mean")`.
`tfprune.criteria.units` lists those for units, `tfprune.criteria.weights` those for weights, and
`tfprune.criteria.freezing` those for freezing; each lists the arguments that a function of your
own may have.
"""

from tfprune.criteria import activations, freezing, units, weights
from tfprune.criteria.activation_based import ActivationVariance, APoZ, TaylorActivation
from tfprune.criteria.contribution import ActivationContribution
from tfprune.criteria.criterion import Criterion, Function
from tfprune.criteria.layerwise_obs import LayerwiseOBS
from tfprune.criteria.obc import OBC
from tfprune.criteria.sparsegpt import SparseGPT
from tfprune.criteria.weight_based import (
    FPGM,
    L1,
    L2,
    BatchNormScale,
    Magnitude,
    Random,
    SecondOrder,
    Taylor,
)

__all__ = [
    "FPGM",
    "L1",
    "L2",
    "OBC",
    "APoZ",
    "ActivationContribution",
    "ActivationVariance",
    "BatchNormScale",
    "Criterion",
    "Function",
    "LayerwiseOBS",
    "Magnitude",
    "Random",
    "SecondOrder",
    "SparseGPT",
    "Taylor",
    "TaylorActivation",
    "activations",
    "freezing",
    "units",
    "weights",
]
