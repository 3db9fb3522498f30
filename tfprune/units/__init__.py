"""Coupled units: which may go, what they are worth, what they cost, and which to remove."""
