"""Recovers accuracy after pruning: recalibration, compensation, reconstruction, distillation."""

from tfprune.recovery.compensation import compensate
from tfprune.recovery.distillation import distill
from tfprune.recovery.recalibration import recalibrate
from tfprune.recovery.reconstruction import reconstruct

__all__ = ["compensate", "distill", "recalibrate", "reconstruct"]
