"""Masked training and real removal of neurons for Keras 3 models."""

from tfprune import layers, masks
from tfprune.masks import set_masks
