"""Layers that scale and shift by fixed numbers: what pre-processing layers do in a model."""

import keras
import numpy as np

from tfprune.coupling.labels import along
from tfprune.coupling.rules.base import Rule, fixed, rule, unknown


@rule(keras.layers.Rescaling)
class Rescaling(Rule):
    """`scale * x + offset`, with one number for all channels."""

    def label(self, call, inputs, labels):
        if not self._is_uniform(call.operation):
            labels.pin(inputs[0], f"{call.operation.name!r} has a factor for each channel")
            return [fixed(call.outputs[0])]
        return [inputs[0]]

    def constants(self, call, inputs):
        layer = call.operation
        if not self._is_uniform(layer):
            return [unknown(call.outputs[0])]
        return [inputs[0] * float(layer.scale) + float(layer.offset)]

    def _is_uniform(self, layer):
        return np.ndim(layer.scale) == np.ndim(layer.offset) == 0


@rule(keras.layers.Normalization)
class Normalization(Rule):
    """`(x - mean) / sqrt(variance)`, or with `invert` back, by a mean for each channel.

    What it learned from data are weights and cut; numbers given to its constructor are not.
    """

    def label(self, call, inputs, labels):
        layer, array = call.operation, inputs[0]
        if layer.input_mean is not None:
            labels.pin(array, f"{layer.name!r} has its mean in its configuration")
            return [fixed(call.outputs[0])]
        if not layer.axis:
            return [array]
        channels = self._channels(call, array)
        if channels is None:
            labels.pin(array, f"units stand on other axes than those of the mean of {layer.name!r}")
            return [fixed(call.outputs[0])]
        for variable in (layer.adapt_mean, layer.adapt_variance):
            labels.slice(layer, variable, 0, channels)
        return [array]

    def _channels(self, call, array):
        axes = [axis % len(call.inputs[0].shape) for axis in call.operation.axis]
        return along(array, axes[0] - 1) if len(axes) == 1 and axes[0] > 0 else None

    def constants(self, call, inputs):
        layer = call.operation
        mean = np.asarray(layer.mean, "float64")[0]
        deviation = np.sqrt(np.asarray(layer.variance, "float64"))[0]
        deviation = np.maximum(deviation, keras.backend.epsilon())
        if layer.invert:
            return [mean + inputs[0] * deviation]
        return [(inputs[0] - mean) / deviation]
