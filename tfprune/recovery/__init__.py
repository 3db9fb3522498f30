"""Recovers accuracy after pruning: recalibration, compensation, reconstruction, distillation."""

from tfprune.recovery.compensate import compensate
from tfprune.recovery.distill import distill
from tfprune.recovery.recalibrate import recalibrate
from tfprune.recovery.reconstruct import reconstruct

__all__ = ["compensate", "distill", "recalibrate", "reconstruct"]
