"""How convolutions run while a model is measured.

Private here, and why:

* `keras.src.backend.tensorflow.nn.conv`, which all convolutions of Keras go through, and which runs
  grouped ones in a function of its own.
"""

import contextlib

import keras
import tensorflow as tf
from keras.src.backend.tensorflow import nn


@contextlib.contextmanager
def kernels_read_outside():
    """While open, convolutions read their kernels before they run in a function of their own.

    Else the function would read the variable, and nothing that stands for it outside.
    """

    def conv(stock, inputs, kernel, *args, **kwargs):
        if isinstance(kernel, keras.Variable):
            kernel = tf.convert_to_tensor(kernel)
        return stock(inputs, kernel, *args, **kwargs)

    with _convolving(conv):
        yield


@contextlib.contextmanager
def strides_outside():
    """While open, pointwise convolutions take every second position first, not their strides.

    That is the same. The gradient for the kernel of a pointwise convolution with strides ends the
    process in TensorFlow 2.21 with oneDNN, where the last position is not read.
    """

    def conv(stock, inputs, kernel, strides=1, padding="valid", data_format=None, *args, **kwargs):
        sizes = kernel.shape[:-2]
        steps = (strides,) * len(sizes) if isinstance(strides, int) else tuple(strides)
        is_last = (data_format or keras.config.image_data_format()) == "channels_last"
        if max(steps, default=1) > 1 and max(sizes, default=0) == 1 and is_last:
            inputs = inputs[(slice(None), *(slice(None, None, step) for step in steps))]
            strides = 1
        return stock(inputs, kernel, strides, padding, data_format, *args, **kwargs)

    with _convolving(conv):
        yield


@contextlib.contextmanager
def _convolving(conv):
    stock = nn.conv
    nn.conv = lambda *args, **kwargs: conv(stock, *args, **kwargs)
    try:
        yield
    finally:
        nn.conv = stock
