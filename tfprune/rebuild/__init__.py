"""Copies of models and of their graphs with fewer or more units."""
