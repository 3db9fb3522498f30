"""Functions of TensorFlow, said in Keras 3."""

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
