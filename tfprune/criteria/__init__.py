"""Criteria: what an element of a weight, or a unit, is worth. Higher = keep."""

from tfprune.criteria import freezing, weights

__all__ = ["freezing", "weights"]
