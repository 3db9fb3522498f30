"""Variables that are made without running their initializers.

Since they are overwritten at once, or since only their shapes are asked for.

Private here, and why:

* `_shape` and `_dtype` of a variable, and the variable itself in the closure of the function that
  Keras gives to TensorFlow as its initial value: only from there its size is known;
* `_initialize_with_initializer`, which gives a variable its first value, and `_value` and
  `_initializer`, which a variable without one has.
"""

import contextlib
import threading

import keras
import tensorflow as tf


@contextlib.contextmanager
def zeros_as_initial_values():
    """While open, float variables that this thread makes from an initializer hold zeros.

    A random number for each element takes longer than all else that a layer does when it is built.
    """
    with tf.variable_creator_scope(_made_of_zeros):
        yield


@contextlib.contextmanager
def without_values():
    """While open, variables that this thread makes from an initializer never get a value.

    A model that is built so takes no memory for its weights. It has their shapes, and cannot run.
    """
    thread, before = threading.get_ident(), keras.Variable._initialize_with_initializer

    def note_initializer(variable, initializer):
        if threading.get_ident() == thread:
            variable._value, variable._initializer = None, initializer  # as before it has one
        else:
            before(variable, initializer)

    keras.Variable._initialize_with_initializer = note_initializer
    try:
        yield
    finally:
        keras.Variable._initialize_with_initializer = before


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
