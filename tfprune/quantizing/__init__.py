"""Training for int8."""
