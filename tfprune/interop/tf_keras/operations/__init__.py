"""Keras 3 counterparts of functions of TensorFlow."""

from tfprune.interop.tf_keras.operations import (
    elementwise,
    filling,
    images,
    indexing,
    reductions,
    shapes,
)
from tfprune.interop.tf_keras.operations.base import NoEquivalentError
from tfprune.interop.tf_keras.operations.calling import applied, is_elementwise
