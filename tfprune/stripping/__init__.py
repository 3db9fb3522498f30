"""`prunable`: a model with masks. `strip`: a smaller model without the units that are dead."""
