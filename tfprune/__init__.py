"""Masked training and real removal of neurons for Keras 3 models."""

from tfprune import (
    callbacks,
    coupling,
    criteria,
    interop,
    layers,
    masks,
    patterns,
    schedules,
    surgery,
)
from tfprune.explain import explain
from tfprune.export import export
from tfprune.masks import set_masks
from tfprune.prunable import prunable
from tfprune.prune_units import prune_units
from tfprune.prune_weights import prune_weights
from tfprune.report import compare, inspect
from tfprune.rewinding import capture, rewind
from tfprune.strip import strip
from tfprune.summary import summary

__version__ = "0.1.0"
