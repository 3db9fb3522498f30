"""Callbacks that change the masks of a model in place while it trains."""

from tfprune.callbacks.backup_and_restore import BackupAndRestore
from tfprune.callbacks.capture import Capture
from tfprune.callbacks.collect_posterior import CollectPosterior
from tfprune.callbacks.dynamic_surgery import DynamicSurgery
from tfprune.callbacks.freeze_weights import FreezeWeights
from tfprune.callbacks.log_masks import LogMasks
from tfprune.callbacks.prune_units import PruneUnits
from tfprune.callbacks.prune_weights import PruneWeights
from tfprune.callbacks.regularize_units import RegularizeUnits
from tfprune.callbacks.rewire import Rewire
from tfprune.callbacks.scheduled import ScheduledCallback
from tfprune.callbacks.straight_through import StraightThrough

__all__ = [
    "BackupAndRestore",
    "Capture",
    "CollectPosterior",
    "DynamicSurgery",
    "FreezeWeights",
    "LogMasks",
    "PruneUnits",
    "PruneWeights",
    "RegularizeUnits",
    "Rewire",
    "ScheduledCallback",
    "StraightThrough",
]
