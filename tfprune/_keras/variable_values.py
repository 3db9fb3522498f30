"""The values of variables, as TensorFlow has them and as NumPy reads them.

Private here, and why:

* `keras.Variable._value`: the `tf.Variable` under it, whose assign methods all writers end in.
"""

import keras
import numpy as np
import tensorflow as tf

_FEW = 1 << 16
"""Elements that NumPy reads sooner than an operation of TensorFlow is called."""


def raw(variable):
    """The `tf.Variable` under a Keras variable, without casts."""
    return variable._value


def is_constant(value):
    """Whether a value is a tensor of TensorFlow with numbers, or a weight."""
    return isinstance(value, keras.Variable) or tf.is_tensor(value) and hasattr(value, "numpy")


def is_finite(variable):
    """Whether all elements of a variable are finite; true of whole numbers, and without a value."""
    value = raw(variable)
    if value is None or not (value.dtype.is_floating or value.dtype.is_complex):
        return True
    if value.dtype in (tf.float32, tf.float64) and value.shape.num_elements() <= _FEW:
        return bool(np.isfinite(values(variable)).all())  # without the cost of two operations
    if value.dtype.is_floating and tf.math.is_finite(tf.reduce_sum(value)):  # takes no memory
        return True
    return bool(tf.reduce_all(tf.math.is_finite(value)))


def is_same_value(variable, other):
    """Whether two variables hold the same value, bit for bit; quick where they share it."""
    if raw(variable) is None or raw(other) is None:
        return raw(variable) is raw(other)
    ours, theirs = values(variable), values(other)
    if ours.shape != theirs.shape or ours.dtype != theirs.dtype:
        return False
    is_shared = ours.__array_interface__["data"] == theirs.__array_interface__["data"]
    return is_shared or ours.tobytes() == theirs.tobytes()


def values(variable):
    """The values of a variable as an array which nobody may write to.

    TensorFlow lends its memory where NumPy knows the dtype. What is assigned later does not show.
    """
    tensor = raw(variable).value()
    try:
        return np.asarray(memoryview(tensor))
    except (BufferError, TypeError, ValueError):
        return tensor.numpy()
