"""Masked training and real removal of neurons for Keras 3 models."""

from tfprune import (
    budgets,
    callbacks,
    coupling,
    criteria,
    interop,
    layers,
    masks,
    optimizers,
    patterns,
    schedules,
    surgery,
    unit_regularizers,
)
from tfprune.explain import explain
from tfprune.export import export
from tfprune.exported import compare_exports
from tfprune.fit_and_shrink import fit_and_shrink
from tfprune.freeze import freeze, unfreeze
from tfprune.freeze_weights import freeze_weights
from tfprune.masks import set_masks
from tfprune.prunable import prunable
from tfprune.prune import prune
from tfprune.prune_units import prune_units
from tfprune.prune_weights import prune_weights
from tfprune.recovery import compensate, distill, recalibrate, reconstruct
from tfprune.report import compare, inspect
from tfprune.rewinding import capture, rewind
from tfprune.sensitivity import sensitivity
from tfprune.strip import strip
from tfprune.summary import summary

__version__ = "0.1.0"
