"""Callbacks that move masks while a model trains."""

from tfprune.callbacks.prune_units import PruneUnits
from tfprune.callbacks.prune_weights import PruneWeights
from tfprune.callbacks.rewire import Rewire
from tfprune.callbacks.scheduled import ScheduledCallback

__all__ = ["PruneUnits", "PruneWeights", "Rewire", "ScheduledCallback"]
