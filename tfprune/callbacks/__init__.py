"""Callbacks that move masks while a model trains."""

from tfprune.callbacks.scheduled import ScheduledCallback
