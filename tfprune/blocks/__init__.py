"""Residual blocks as units of pruning: found in the graph, scored, and removed."""
