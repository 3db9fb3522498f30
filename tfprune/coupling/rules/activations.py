"""Activations: which of them are element-wise, and constant folding through them."""

import warnings
import weakref

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
    """Whether an activation is element-wise: known to be, or found to be when tried."""
    if activation is None:
        return True
    if isinstance(activation, keras.layers.Layer):
        return type(activation) in ELEMENTWISE_LAYERS
    return activation in ELEMENTWISE or _is_found_elementwise(activation)


_FOUND = weakref.WeakKeyDictionary()


def _is_found_elementwise(function):
    """Whether a function gives the same for elements among others as for few alone.

    Tried on values of several scales: all again, in a row, in a column, and in parts, so that what
    depends on chance, on places, on sizes or on other elements is told.
    """
    try:
        if function not in _FOUND:
            _FOUND[function] = all(_is_same_apart(function, scale) for scale in (1.0, 10.0, 0.1))
        return _FOUND[function]
    except TypeError:  # it cannot be a key
        return False


def _is_same_apart(function, scale):
    values = np.random.default_rng(0).normal(size=(4, 6, 8)).astype("float32") * scale
    flat = values.reshape(-1)
    apart = [[values], [flat[:, None]], [flat[None]], np.split(flat[None], 8, axis=1)]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # as of a softmax over a single element
            together, *others = (
                np.concatenate([_flat_outputs(function, part) for part in parts])
                for parts in [[values], *apart]
            )
    except Exception:  # a function of somebody else's may fail in any way
        return False
    return all(np.allclose(other, together, 1e-5, 1e-6, equal_nan=True) for other in others)


def _flat_outputs(function, values):
    outputs = np.asarray(function(keras.ops.convert_to_tensor(values)), "float64")
    if outputs.shape != values.shape:
        raise ValueError(f"not the shape {values.shape}: {outputs.shape}")
    return outputs.reshape(-1)


ELEMENTWISE_LAYERS = frozenset({keras.layers.ReLU, keras.layers.LeakyReLU, keras.layers.ELU})


def of_constant(activation, constants, dtype):
    """Returns an activation of constants; NaN where it is not element-wise or not constant."""
    known = ~np.isnan(constants)
    if activation in (None, keras.activations.linear) or not known.any():
        return constants
    if not is_elementwise(activation):
        return np.full_like(constants, np.nan)
    values = keras.ops.convert_to_tensor(np.where(known, constants, 0), dtype)
    results = keras.ops.convert_to_numpy(keras.ops.cast(activation(values), "float64"))
    return np.where(known, results, np.nan)
