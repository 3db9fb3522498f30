"""Registry of Keras 3 counterparts of functions of TensorFlow, and helpers for them.

Each is a function of what the TensorFlow function takes: its required arguments by place, of the
others those that differ from TensorFlow's default by name. What such a function does not take is
refused. Arguments are symbolic tensors of Keras 3, constants, and `Size`s.
"""

import numpy as np
import tensorflow as tf

from tfprune import _keras
from tfprune.interop.tf_keras import sizes
from tfprune.interop.tf_keras.sizes import Size

FUNCTIONS = {}
"""The functions by the name of TensorFlow's, without `tf.`."""


class NoEquivalentError(ValueError):
    """Raised for a function, or an argument of one, that cannot be said in Keras 3."""


def says(*names):
    """Decorator that registers a function for TensorFlow's functions of these names."""

    def register(function):
        for name in names:
            FUNCTIONS[name] = function
        return function

    return register


def alike(value, other):
    """A constant in the dtype of the symbolic tensor it meets, as TensorFlow converts it."""
    if _keras.is_symbolic(value) or not _keras.is_symbolic(other):
        return value
    if type(value) in (bool, int, float):  # those of NumPy are subclasses, with a dtype
        return value
    return np.asarray(value, tf.as_dtype(other.dtype).as_numpy_dtype)


def axes_of(axis):
    """Axes as a tuple, a number or None."""
    if isinstance(axis, (list, tuple, np.ndarray)):
        found = tuple(int(each) for each in np.ravel(axis))
        return found if np.ndim(axis) else found[0]
    return None if axis is None else int(axis)


def known(value, what):
    """Integers of a shape, all known."""
    found = sizes.as_sizes(value)
    if any(isinstance(each, Size) for each in found):
        raise NoEquivalentError(f"its {what} is known only at run time")
    return found


def dtype_of(dtype):
    """The name of a dtype of TensorFlow, NumPy or by name."""
    return tf.as_dtype(dtype).name


def of_list(values):
    """A list of tensors, constants among them as arrays of their dtype."""
    values = list(values)
    tensor = next((each for each in values if _keras.is_symbolic(each)), None)
    return [value if tensor is None else _array_like(value, tensor) for value in values]


def _array_like(value, tensor):
    value = alike(value, tensor)
    if isinstance(value, (bool, int, float)):
        value = np.asarray(value, tf.as_dtype(tensor.dtype).as_numpy_dtype)
    return value
