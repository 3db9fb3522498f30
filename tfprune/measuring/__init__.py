"""Bytes, latency and metrics of models."""
