"""Single weights: which may go, what they are worth, and their masks."""
