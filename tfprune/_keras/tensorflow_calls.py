"""Functions of TensorFlow called on symbolic tensors of Keras, which Keras itself refuses.

Private here: `GlobalOpDispatcher`, by which TensorFlow asks others about arguments that it does not
know. It is registered once and does nothing but within `tensorflow_on_symbols`.
"""

import contextlib
import functools
import threading

import keras
import tensorflow as tf

from tfprune._keras.graphs import is_symbolic

_thread = threading.local()


class TensorFlowCall(keras.Operation):
    """A call of a function of TensorFlow.

    Attributes:
        function: The function.
    """

    def __init__(self, function):
        super().__init__(name=f"tf_{function.__name__}")
        self.function = function

    def call(self, *args, **kwargs):
        """What the function returns."""
        return self.function(*args, **kwargs)


class _Dispatcher(tf.__internal__.dispatch.GlobalOpDispatcher):
    def handle(self, op, args, kwargs):
        symbols = [leaf for leaf in keras.tree.flatten((args, kwargs)) if is_symbolic(leaf)]
        if not (getattr(_thread, "is_open", False) and symbols):
            return self.NOT_SUPPORTED
        if op.__name__ in ("shape", "shape_v2") and None not in symbols[0].shape:
            return tf.constant(symbols[0].shape)
        return TensorFlowCall(op)(*args, **kwargs)


@functools.cache
def _registered():
    _Dispatcher().register()


@contextlib.contextmanager
def tensorflow_on_symbols(is_open=True):
    """While open, functions of TensorFlow take symbolic tensors: each call is an operation.

    Args:
        is_open: Whether it is open at all.
    """
    _registered()
    before, _thread.is_open = getattr(_thread, "is_open", False), is_open
    try:
        yield
    finally:
        _thread.is_open = before
