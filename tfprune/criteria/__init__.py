"""Criteria: what an element of a weight, or a unit, is worth. Higher = keep."""

from tfprune.criteria import activations, freezing, units, weights

__all__ = ["activations", "freezing", "units", "weights"]
