"""Channel-wise operations: activations, pooling, padding, depthwise convolutions."""

import keras
import numpy as np

from tfprune import _keras
from tfprune.coupling.calls import Passed
from tfprune.coupling.labels import along, placed
from tfprune.coupling.rules.activations import is_elementwise, of_constant
from tfprune.coupling.rules.base import Rule, fixed, rule, unknown
from tfprune.coupling.rules.linear import pin_reason


def _layers(*names):
    """The layer classes that this version of Keras has."""
    return [getattr(keras.layers, name) for name in names if hasattr(keras.layers, name)]


@rule(
    keras.layers.Dropout,
    keras.layers.SpatialDropout1D,
    keras.layers.SpatialDropout2D,
    keras.layers.SpatialDropout3D,
    keras.layers.AlphaDropout,
    keras.layers.GaussianDropout,
    keras.layers.GaussianNoise,
    keras.layers.ActivityRegularization,
    keras.layers.Identity,
    Passed,
    *_layers(
        *"RandomBrightness RandomColorDegeneration RandomColorJitter RandomContrast".split(),
        *"RandomElasticTransform RandomErasing RandomFlip RandomGaussianBlur".split(),
        *"RandomGrayscale RandomHue RandomInvert RandomPerspective RandomPosterization".split(),
        *"RandomRotation RandomSaturation RandomSharpness RandomShear RandomTranslation".split(),
        *"RandomZoom RandAugment AugMix CutMix MixUp Solarization".split(),
        *"MaxNumBoundingBoxes".split(),
    ),
)
class Identity(Rule):
    """The identity, at inference."""

    def constants(self, call, inputs):
        return [inputs[0]]


@rule(keras.layers.ReLU, keras.layers.LeakyReLU, keras.layers.ELU)
class ActivationLayer(Rule):
    """An activation of one element."""

    def constants(self, call, inputs):
        return [of_constant(call.operation, inputs[0], call.outputs[0].dtype)]


@rule(keras.layers.Activation)
class Activation(Rule):
    """An activation by function: of one element, or over the last axis as softmax."""

    def label(self, call, inputs, labels):
        if not is_elementwise(call.operation.activation):
            labels.pin(inputs[0], f"the activation of {call.operation.name!r} joins its units")
        return [inputs[0]]

    def constants(self, call, inputs):
        return [of_constant(call.operation.activation, inputs[0], call.outputs[0].dtype)]


@rule(keras.layers.PReLU)
class ParametricReLU(Rule):
    """`max(x, 0) + alpha * min(x, 0)` with an alpha for each element, or shared along axes."""

    def label(self, call, inputs, labels):
        layer, array = call.operation, inputs[0]
        for axis, size in enumerate(layer.alpha.shape):
            positions = along(array, axis)
            if array.shape[axis] != 1 and positions is not None and size != 1:
                labels.slice(layer, layer.alpha, axis, positions)
            elif array.shape[axis] != 1 and positions is None:
                labels.pin(array, pin_reason(layer, None))
        return [array]

    def constants(self, call, inputs):
        alpha, values = np.asarray(call.operation.alpha, "float64"), inputs[0]
        # Alpha may change along an axis where the labels do not: then it must not matter.
        axes = tuple(a for a, size in enumerate(values.shape) if size == 1)
        low, high = alpha.min(axis=axes, keepdims=True), alpha.max(axis=axes, keepdims=True)
        outputs = np.where(values >= 0, values, low * values)
        return [np.where((values >= 0) | (low == high), outputs, np.nan)]


class Spatial(Rule):
    """Works along the spatial axes, the same in every channel."""

    def _channel_axis(self, call):
        first = getattr(call.operation, "data_format", "channels_last")
        first = first or keras.config.image_data_format()
        return 0 if first == "channels_first" else len(call.inputs[0].shape) - 2

    def label(self, call, inputs, labels):
        channels = along(inputs[0], self._channel_axis(call))
        if channels is None:
            labels.pin(inputs[0], f"{call.operation.name!r} mixes positions that are units")
            return [fixed(call.outputs[0])]
        return [self._placed(call, channels)]

    def constants(self, call, inputs):
        channels = along(inputs[0], self._channel_axis(call))
        if channels is None:
            return [unknown(call.outputs[0])]
        return [self._placed(call, self.of_channels(call.operation, channels))]

    def of_channels(self, layer, constants):
        """Returns the outputs for channels that are constant; NaN where these are not."""
        return constants

    def _placed(self, call, channels):
        output = call.outputs[0]
        axis = self._channel_axis(call)
        keeps_axes = len(output.shape) == len(call.inputs[0].shape)
        return placed(channels, axis if keeps_axes else 0, len(output.shape) - 1)


@rule(
    *(
        getattr(keras.layers, f"{name}{n}D")
        for name in (
            *("MaxPooling", "AveragePooling", "GlobalMaxPooling", "GlobalAveragePooling"),
            *("Cropping", "UpSampling"),
        )
        for n in (1, 2, 3)
    ),
    *_layers(*(f"Adaptive{kind}Pooling{n}D" for n in (1, 2, 3) for kind in ("Max", "Average"))),
    *_keras.operation_classes("MaxPool", "AveragePool", "AdaptiveMaxPool", "AdaptiveAveragePool"),
)
class Pooling(Spatial):
    """Pooling, cropping, upsampling: a channel that holds a constant still holds it."""

    def constants(self, call, inputs):
        # An average over masked time steps is 0 where all of them are masked.
        outputs = super().constants(call, inputs)
        if call.kwargs.get("mask") is not None:
            outputs = [np.where(array == 0, array, np.nan) for array in outputs]
        return outputs


@rule(*(getattr(keras.layers, f"ZeroPadding{n}D") for n in (1, 2, 3)))
class ZeroPadding(Spatial):
    """Padding by zeros: of the constants only 0 stays one."""

    def of_channels(self, layer, constants):
        return np.where(constants == 0, constants, np.nan)


@rule(keras.layers.DepthwiseConv1D, keras.layers.DepthwiseConv2D)
class DepthwiseConvolution(Spatial):
    """A convolution of each channel with its own taps: kernel (*window, channels, multiplier).

    The outputs of a channel are adjacent and are removed with it.
    """

    def label(self, call, inputs, labels):
        layer = call.operation
        channels = along(inputs[0], self._channel_axis(call))
        if channels is None:
            labels.pin(inputs[0], pin_reason(layer, channels))
            return [fixed(call.outputs[0])]
        rank, multiplier = len(layer.kernel.shape), layer.depth_multiplier
        channels = np.broadcast_to(channels, (layer.kernel.shape[-2],))
        outgoing = np.repeat(channels, multiplier)
        if not is_elementwise(layer.activation):
            labels.pin(outgoing, f"the activation of {layer.name!r} joins its units")
        labels.slice(layer, layer.kernel, rank - 2, channels)
        labels.slice(layer, layer.bias, 0, outgoing)
        return [self._placed(call, outgoing)]

    def of_channels(self, layer, constants):
        kernel = np.asarray(layer.kernel, "float64").reshape(-1, *layer.kernel.shape[-2:])
        constants = np.broadcast_to(constants, kernel.shape[1:2])[:, None]
        padded = layer.padding != "valid" and any(size > 1 for size in layer.kernel_size)
        is_zero = ~(kernel != 0).any(axis=0) | (constants == 0)
        known = is_zero | (~np.isnan(constants) & (not padded))
        values = np.where(is_zero, 0, constants * kernel.sum(axis=0)).reshape(-1)
        if layer.bias is not None:
            values = values + np.asarray(layer.bias, "float64")
        values = np.where(known.reshape(-1), values, np.nan)
        return of_constant(layer.activation, values, layer.compute_dtype)
