"""Experiments that readers of a paper want to run again, each as one program."""

from tfprune.experiments import digits, digits_plot, stacked

__all__ = ["digits", "digits_plot", "stacked"]
