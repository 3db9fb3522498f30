"""Rebuilds models of `tf_keras` in Keras 3.

A model, or the config in a file of one, is described (`live`, `files`), and the description is
built again by calling layers of Keras 3 (`build`) and functions of `keras.ops` in place of
TensorFlow's (`operations`).
"""

from tfprune.interop.tf_keras.build import OPERATIONS, Build
from tfprune.interop.tf_keras.description import OWN_WEIGHT, WRAPPER, Weight
from tfprune.interop.tf_keras.files import described_config, is_wrapped
from tfprune.interop.tf_keras.live import described_model
from tfprune.interop.tf_keras.running import call_arguments, outputs_by_layer
