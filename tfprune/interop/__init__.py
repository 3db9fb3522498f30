"""Converts models and schedules of other libraries."""

from tfprune.interop import tfmot

__all__ = ["tfmot"]
