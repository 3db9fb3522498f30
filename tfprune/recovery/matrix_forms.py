"""Dense layers and convolutions as matrix products (im2col).

    outputs = rows @ kernel + bias, for each group

A dense layer has a row for each position. A convolution has a row for each place of its window,
which holds the patch of inputs there. A depthwise convolution has a group for each channel.
"""

import math

import keras
import numpy as np
import tensorflow as tf

from tfprune import _keras
from tfprune.criteria.patches import patches, same_paddings


class Dense:
    """Kernel (inputs, units); a row for each position."""

    def __init__(self, layer):
        self.layer = layer
        self.kernel = layer.kernel
        self.shape = (1, *layer.kernel.shape)

    def rows(self, inputs, outputs):
        """Inputs as (groups, rows, columns)."""
        return tf.reshape(inputs, [1, -1, self.shape[1]])

    def targets(self, outputs):
        """Outputs as (groups, rows, columns); convolutions number their filters by group."""
        groups, _, columns = self.shape
        return tf.transpose(tf.reshape(outputs, [-1, groups, columns]), [1, 0, 2])

    def to_matrix(self, kernel):
        """An array of the kernel's shape as (groups, rows, columns)."""
        groups, rows, columns = self.shape
        return kernel.reshape(rows, groups, columns).swapaxes(0, 1)

    def to_kernel(self, matrix):
        """The opposite of `to_matrix`."""
        return matrix.swapaxes(0, 1).reshape(self.kernel.shape)

    def channels_last(self, tensor):
        """A tensor with the channel axis at the end."""
        return tensor


class _Windowed(Dense):
    def channels_last(self, tensor):
        rank = len(tensor.shape)
        is_first = self.layer.data_format == "channels_first"
        return tf.transpose(tensor, [0, *range(2, rank), 1]) if is_first else tensor

    def rows(self, inputs, outputs):
        """For each place of the window what each tap holds, channels last in it."""
        layer = self.layer
        window, rank = tuple(layer.kernel_size), len(layer.kernel_size)
        strides, dilations = (
            (value,) * rank if isinstance(value, int) else tuple(value)
            for value in (layer.strides, layer.dilation_rate)
        )
        paddings = [(0, 0)] * rank
        if layer.padding == "same":
            paddings = same_paddings(inputs, window, strides, dilations)
        elif layer.padding == "causal":
            paddings = [((window[0] - 1) * dilations[0], 0)]
        return patches(inputs, window, strides, dilations, paddings, self.shape[0])


class Convolution(_Windowed):
    """Kernel (*window, inputs of a group, filters of all groups)."""

    def __init__(self, layer):
        super().__init__(layer)
        *window, inputs, filters = layer.kernel.shape
        self.shape = (layer.groups, math.prod(window) * inputs, filters // layer.groups)


class DepthwiseConvolution(_Windowed):
    """Kernel (*window, channels, multiplier)."""

    def __init__(self, layer):
        super().__init__(layer)
        *window, channels, multiplier = layer.kernel.shape
        self.shape = (channels, math.prod(window), multiplier)


_FORMS = {
    keras.layers.Dense: Dense,
    **{getattr(keras.layers, f"Conv{rank}D"): Convolution for rank in (1, 2, 3)},
    **{getattr(keras.layers, f"DepthwiseConv{rank}D"): DepthwiseConvolution for rank in (1, 2)},
}


def form_of(layer):
    """The matrix form of a layer; None for other classes, quantized layers and those with LoRA.

    Subclasses from other packages that override `call` have none, since they may do anything.
    """
    for cls in type(layer).__mro__:
        if cls in _FORMS:
            return _FORMS[cls](layer) if _keras.changed_kernel(layer) is None else None
        if "call" in vars(cls) and cls.__module__.split(".")[0] not in ("keras", "tfprune"):
            return None
    return None


def as_columns(form, values):
    """An array over all outputs of a layer as (groups, columns)."""
    return np.reshape(values, (form.shape[0], form.shape[2]))
