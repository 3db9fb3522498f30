"""Recovery."""

from tfprune.recovery.recalibrate import recalibrate
