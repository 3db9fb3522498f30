"""Masked training and real removal of neurons for Keras 3 models."""

from tfprune import layers, masks
from tfprune.convert import prunable
from tfprune.masks import set_masks
from tfprune.strip import strip

__version__ = "0.1.0"
