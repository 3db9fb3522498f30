"""From a model to a prunable one, and from its masks to a small model."""
