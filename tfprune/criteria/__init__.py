"""Criteria: what an element of a weight, or a unit, is worth. Higher = keep."""

from tfprune.criteria import weights

__all__ = ["weights"]
