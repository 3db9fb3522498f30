"""Activations: which of them are element-wise, and constant folding through them."""

import keras
import numpy as np
import tensorflow as tf

_NAMES = (
    "celu elu exp exponential gelu hard_shrink hard_sigmoid hard_silu hard_swish hard_tanh "
    "leaky_relu linear log_sigmoid mish relu relu6 selu sigmoid silu soft_shrink softplus "
    "softsign sparse_plus sparse_sigmoid squareplus swish tanh tanh_shrink threshold"
).split()

ELEMENTWISE = frozenset(
    getattr(module, name)
    for module in (keras.activations, keras.ops, tf.nn)
    for name in _NAMES
    if hasattr(module, name)
)
"""The activation functions known to be element-wise."""


def is_elementwise(activation):
    """Whether an activation is known to be element-wise."""
    if activation is None:
        return True
    if isinstance(activation, keras.layers.Layer):
        return type(activation) in ELEMENTWISE_LAYERS
    return activation in ELEMENTWISE


ELEMENTWISE_LAYERS = frozenset({keras.layers.ReLU, keras.layers.LeakyReLU, keras.layers.ELU})


def of_constant(activation, constants, dtype):
    """Returns an activation of constants; NaN where it is not element-wise or not constant."""
    if activation is None:
        return constants
    if not is_elementwise(activation):
        return np.full_like(constants, np.nan)
    known = ~np.isnan(constants)
    values = keras.ops.convert_to_tensor(np.where(known, constants, 0), dtype)
    results = keras.ops.convert_to_numpy(keras.ops.cast(activation(values), "float64"))
    return np.where(known, results, np.nan)
