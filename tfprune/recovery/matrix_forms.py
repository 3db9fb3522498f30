"""Dense layers and convolutions as matrix products (im2col).

    outputs = rows @ kernel + bias, for each group

A dense layer has a row for each position. A convolution has a row for each place of its window,
which holds the patch of inputs there. A depthwise convolution has a group for each channel.
"""

import itertools
import math

import keras
import numpy as np
import tensorflow as tf


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
        window, groups = tuple(self.layer.kernel_size), self.shape[0]
        sizes = tf.shape(outputs)[1:-1]
        padded = tf.pad(inputs, self._paddings(inputs, sizes))
        taps = [self._tap(padded, place, sizes) for place in itertools.product(*map(range, window))]
        taps = tf.stack([tf.reshape(t, [-1, groups, t.shape[-1] // groups]) for t in taps], 2)
        return tf.reshape(tf.transpose(taps, [1, 0, 2, 3]), [groups, -1, self.shape[1]])

    def _strides_and_dilations(self):
        values, rank = (self.layer.strides, self.layer.dilation_rate), len(self.layer.kernel_size)
        return [(v,) * rank if isinstance(v, int) else tuple(v) for v in values]

    def _paddings(self, inputs, sizes):
        """Zeros before and after each axis, as TensorFlow's "same" has them."""
        paddings = [[0, 0]]
        strides, dilations = self._strides_and_dilations()
        for axis, size in enumerate(self.layer.kernel_size):
            reach = (size - 1) * dilations[axis] + 1
            before = after = 0
            if self.layer.padding == "causal":
                before = reach - 1
            elif self.layer.padding == "same":
                covered = (sizes[axis] - 1) * strides[axis] + reach
                missing = tf.maximum(covered - tf.shape(inputs)[axis + 1], 0)
                before, after = missing // 2, missing - missing // 2
            paddings.append([before, after])
        return [*paddings, [0, 0]]

    def _tap(self, padded, place, sizes):
        """The inputs of one tap: every stride-th position from its place in the window."""
        strides, dilations = self._strides_and_dilations()
        index = [slice(None)]
        for axis, offset in enumerate(place):
            start = offset * dilations[axis]
            end = start + (sizes[axis] - 1) * strides[axis] + 1
            index.append(slice(start, end, strides[axis]))
        return padded[tuple(index)]


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
            is_plain = not (layer.quantization_mode or getattr(layer, "lora_enabled", False))
            return _FORMS[cls](layer) if is_plain else None
        if "call" in vars(cls) and cls.__module__.split(".")[0] not in ("keras", "tfprune"):
            return None
    return None


def as_columns(form, values):
    """An array over all outputs of a layer as (groups, columns)."""
    return np.reshape(values, (form.shape[0], form.shape[2]))
