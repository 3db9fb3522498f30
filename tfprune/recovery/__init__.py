"""Accuracy that went with removed units, brought back with little training or none."""

from tfprune.recovery.compensate import compensate
from tfprune.recovery.distill import distill
from tfprune.recovery.recalibrate import recalibrate
from tfprune.recovery.reconstruct import reconstruct
