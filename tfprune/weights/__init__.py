"""Pruning and freezing of single weights: selection, scores, distributions and masks."""
