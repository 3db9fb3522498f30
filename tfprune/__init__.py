"""Masked training and real removal of neurons for Keras 3 models."""

import sys

from tfprune_cli import module_start as _module_start  # before TensorFlow is imported

# isort: split
from tfprune._tools import backend as _backend  # before the others, which need TensorFlow

# isort: split
from tfprune import (
    callbacks,
    coupling,
    criteria,
    experiments,
    interop,
    layers,
    masks,
    optimizers,
    patterns,
    recovery,
    schedules,
    surgery,
)
from tfprune.blocks.prune_blocks import prune_blocks
from tfprune.blocks.prune_experts import prune_experts
from tfprune.exporting.export import export
from tfprune.masks.freeze import freeze, unfreeze
from tfprune.masks.rewinding import capture, rewind
from tfprune.masks.setting import set_masks
from tfprune.masks.summary import summary
from tfprune.quantizing.quantize_aware import quantize_aware
from tfprune.recovery import compensate, distill, recalibrate, reconstruct
from tfprune.reports.compare import compare
from tfprune.reports.compare_exports import compare_exports
from tfprune.reports.explain import explain
from tfprune.reports.inspect import inspect
from tfprune.shrinking.fit_and_shrink import fit_and_shrink
from tfprune.shrinking.pareto import pareto
from tfprune.shrinking.prune import prune
from tfprune.stripping.prunable import prunable
from tfprune.stripping.strip import strip
from tfprune.units import budgets
from tfprune.units import regularizers as unit_regularizers
from tfprune.units.prune_units import prune_units
from tfprune.units.selection.selection import Selection
from tfprune.units.sensitivity import sensitivity
from tfprune.weights import distributions
from tfprune.weights.freeze_weights import freeze_weights
from tfprune.weights.prune_weights import prune_weights

__version__ = "0.2.0.dev0"

__all__ = [
    "Selection",
    "__version__",
    "budgets",
    "callbacks",
    "capture",
    "compare",
    "compare_exports",
    "compensate",
    "coupling",
    "criteria",
    "distill",
    "distributions",
    "experiments",
    "explain",
    "export",
    "fit_and_shrink",
    "freeze",
    "freeze_weights",
    "inspect",
    "interop",
    "layers",
    "masks",
    "optimizers",
    "pareto",
    "patterns",
    "prunable",
    "prune",
    "prune_blocks",
    "prune_experts",
    "prune_units",
    "prune_weights",
    "quantize_aware",
    "recalibrate",
    "reconstruct",
    "recovery",
    "rewind",
    "schedules",
    "sensitivity",
    "set_masks",
    "strip",
    "summary",
    "surgery",
    "unfreeze",
    "unit_regularizers",
]

# These are in the rooms of what they work on; users import them from here.
for _name in ("budgets", "distributions", "unit_regularizers"):
    sys.modules[f"{__name__}.{_name}"] = globals()[_name]


def __dir__():
    """The public names."""
    return sorted(__all__)
