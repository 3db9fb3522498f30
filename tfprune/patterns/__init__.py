"""Patterns: how scores become a mask. Pure functions of NumPy arrays."""

from tfprune.patterns.top_k import pruned_count, top_k_mask
