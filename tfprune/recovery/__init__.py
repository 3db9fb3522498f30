"""Recovery."""

from tfprune.recovery.recalibrate import recalibrate
from tfprune.recovery.reconstruct import reconstruct
