"""Pruning of coupled units: scores, cost model, budgets, selection and regularizers."""
