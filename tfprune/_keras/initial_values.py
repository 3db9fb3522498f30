"""Variables that are made without running their initializers, since they are overwritten at once.

Private here, and why:

* `_shape` and `_dtype` of a variable, and the variable itself in the closure of the function that
  Keras gives to TensorFlow as its initial value: only from there its size is known.
"""

import contextlib

import keras
import tensorflow as tf


@contextlib.contextmanager
def zeros_as_initial_values():
    """While open, float variables that this thread makes from an initializer hold zeros.

    A random number for each element takes longer than all else that a layer does when it is built.
    """
    with tf.variable_creator_scope(_made_of_zeros):
        yield


def _made_of_zeros(make, initial_value=None, **arguments):
    variable = _owner(initial_value)
    if variable is not None and keras.backend.is_float_dtype(variable._dtype):
        initial_value = tf.zeros(variable._shape, variable._dtype)
    return make(initial_value=initial_value, **arguments)


def _owner(initial_value):
    """The Keras variable whose initializer an initial value runs; None of any other value."""
    code = getattr(initial_value, "__code__", None)
    if code is None or "self" not in code.co_freevars:
        return None
    owner = initial_value.__closure__[code.co_freevars.index("self")].cell_contents
    return owner if isinstance(owner, keras.Variable) else None
