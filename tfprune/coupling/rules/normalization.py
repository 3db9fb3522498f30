"""Normalization layers."""

import keras
import numpy as np

from tfprune import _keras
from tfprune.coupling.labels import along, placed
from tfprune.coupling.rules.base import Need, Rule, fixed, rule, unknown, values_of
from tfprune.coupling.rules.block_labels import groups_left, operation_axes
from tfprune.coupling.rules.linear import pin_reason
from tfprune.layers import Masked


def _float(variable, default):
    return default if variable is None else values_of(variable).astype("float64")


@rule(keras.layers.BatchNormalization)
class BatchNormalization(Rule):
    """Scales and shifts each channel by itself."""

    def label(self, call, inputs, labels):
        layer, array = call.operation, inputs[0]
        channels = along(array, self._axis(call))
        if channels is None:
            labels.pin(array, pin_reason(layer, channels))
            return [fixed(call.outputs[0])]
        for variable in layer.weights:  # with `renorm=True` there are more than four
            labels.slice(layer, variable, 0, channels)
        return [placed(np.broadcast_to(channels, self._size(call)), self._axis(call), array.ndim)]

    def constants(self, call, inputs):
        layer, values = call.operation, along(inputs[0], self._axis(call))
        if values is None:
            return [unknown(call.outputs[0])]
        gamma, beta = _float(layer.gamma, 1.0), _float(layer.beta, 0.0)
        mean, variance = _float(layer.moving_mean, 0.0), _float(layer.moving_variance, 1.0)
        scale = np.broadcast_to(gamma / np.sqrt(variance + layer.epsilon), self._size(call))
        values = np.where(scale == 0, 0.0, values)  # a channel of scale 0 holds beta
        return [placed(scale * (values - mean) + beta, self._axis(call), inputs[0].ndim)]

    def _axis(self, call):
        return operation_axes(call)[0] - 1

    def _size(self, call):
        return (call.inputs[0].shape[call.operation.axis],)


class _OverUnits(Rule):
    """Statistics over units: every unit that they count is needed by all others.

    A layer of `tfprune.layers` counts unmasked units only, and outputs 0 for masked ones.
    """

    def weights(self, layer):
        """The weights along the normalised axes, where the layer has them."""
        return [weight for weight in (layer.gamma, layer.beta) if weight is not None]

    def axes(self, call):
        """The normalised axes, counted without the batch axis."""
        return sorted(axis - 1 for axis in operation_axes(call))

    def label(self, call, inputs, labels):
        layer, array = call.operation, inputs[0]
        labelled = [axis for axis in range(array.ndim) if array.shape[axis] != 1]
        axes = self.axes(call)
        if len(labelled) > 1 or not set(labelled) <= set(axes) or not self.weights(layer):
            labels.pin(array, f"{layer.name!r} normalises over units that its weights cannot name")
            return [array]
        for axis in labelled:
            for variable in self.weights(layer):
                labels.slice(layer, variable, axes.index(axis), along(array, axis))
        return [array]

    def constants(self, call, inputs):
        """Only what the statistics leave out is known: it is 0."""
        counted = self.counted(call, inputs[0].shape)
        return [np.where(counted, np.nan, 0.0)]

    def counted(self, call, shape):
        """Which units the statistics count, in an array of the labels' shape."""
        layer = call.operation
        if not (isinstance(layer, Masked) and layer.trainable_masks):
            return np.ones(shape, bool)
        masks = [np.asarray(mask) for mask in layer.trainable_masks.values()]
        kept = np.logical_or.reduce(masks)
        full = [1] * len(shape)
        for axis, size in zip(self.axes(call), kept.shape, strict=True):
            full[axis] = size
        kept = kept.reshape(full)
        merged = tuple(a for a in range(len(shape)) if shape[a] == 1 and full[a] != 1)
        return np.broadcast_to(kept.any(axis=merged, keepdims=True), shape)

    def needs(self, call, flow):
        array = flow.labels(call.inputs[0])
        if not flow.is_needed(array).any():
            return []
        reason = f"{call.operation.name!r} counts it in its statistics"
        return [Need(array, self.counted(call, array.shape), reason)]

    def left_out(self, call, flow):
        """The labels of the units which the statistics leave out."""
        array = flow.labels(call.inputs[0])
        return array[~self.counted(call, array.shape)]

    def is_refused(self, call, flow):
        """Whether a unit that is left out would come back into the statistics.

        Units that are left out give 0 for any statistics, so they may be kept by themselves.
        """
        array = flow.labels(call.inputs[0])
        needed, counted = flow.is_needed(array), self.counted(call, array.shape)
        return (needed & ~counted).any() and (needed & counted).any()


@rule(keras.layers.LayerNormalization)
class LayerNormalization(_OverUnits):
    """Mean and variance over units."""


@rule(keras.layers.RMSNormalization)
class RMSNormalization(_OverUnits):
    """Mean square over units."""

    def weights(self, layer):
        """The scale."""
        return [layer.scale]


@rule(keras.layers.GroupNormalization)
class GroupNormalization(_OverUnits):
    """Mean and variance over groups of channels; groups are removed whole or keep equally many."""

    def label(self, call, inputs, labels):
        outputs = super().label(call, inputs, labels)
        channels = along(inputs[0], self.axes(call)[0])
        if channels is not None and channels.size > 1:
            labels.group(call.operation, channels.reshape(call.operation.groups, -1))
        return outputs

    def constants(self, call, inputs):
        """Zero where the statistics leave it out; beta where a whole group is 0."""
        (outputs,) = super().constants(call, inputs)
        axis = self.axes(call)[0]
        values, found = along(inputs[0], axis), along(outputs, axis)
        if values is None or found is None or not isinstance(call.operation.groups, int):
            return [outputs]
        size = call.inputs[0].shape[axis + 1]
        values, found = np.broadcast_to(values, size), np.broadcast_to(found, size)
        is_zero = (values.reshape(call.operation.groups, -1) == 0).all(axis=1)
        is_zero = np.repeat(is_zero, size // len(is_zero)) & np.isnan(found)
        beta = np.broadcast_to(_float(call.operation.beta, 0.0), size)
        return [placed(np.where(is_zero, beta, found), axis, inputs[0].ndim)]

    def needs(self, call, flow):
        parts = self._by_group(call, flow)
        if parts is None:
            return super().needs(call, flow)
        channels, counted, needed = parts
        reason = f"{call.operation.name!r} counts it in the statistics of its group"
        return [Need(channels, counted & needed.any(axis=1, keepdims=True), reason)]

    def is_refused(self, call, flow):
        """Whether a unit that is left out would come back into the statistics of its group."""
        parts = self._by_group(call, flow)
        if parts is None:
            return super().is_refused(call, flow)
        _, counted, needed = parts
        return ((needed & ~counted).any(axis=1) & (needed & counted).any(axis=1)).any()

    def _by_group(self, call, flow):
        """Labels, what is counted and what is needed, each (groups, channels of a group)."""
        labels = flow.labels(call.inputs[0])
        axis = self.axes(call)[0]
        channels = along(labels, axis)
        if channels is None or channels.size == 1:
            return None
        counted = along(self.counted(call, labels.shape), axis)
        shape = (call.operation.groups, -1)
        return tuple(a.reshape(shape) for a in (channels, counted, flow.is_needed(channels)))

    def resize(self, config, call, sizes):
        """Sets `groups` to the number of groups of which any unit is left."""
        channels = sizes.counts_along(call.inputs[0], self.axes(call)[0])
        config["groups"] = groups_left(call.operation, channels)


@rule(*_keras.application_layers("LayerScale"))
class LayerScale(Rule):
    """A factor for each channel: gamma of shape (channels,)."""

    def label(self, call, inputs, labels):
        layer, channels = call.operation, along(inputs[0], -1)
        if channels is None:
            labels.pin(inputs[0], pin_reason(layer, None))
            return [fixed(call.outputs[0])]
        labels.slice(layer, layer.gamma, 0, channels)
        return [inputs[0]]

    def constants(self, call, inputs):
        if along(inputs[0], -1) is None:
            return [unknown(call.outputs[0])]
        gamma = np.asarray(call.operation.gamma, "float64")
        return [np.where(gamma == 0, 0.0, inputs[0] * gamma)]

    def resize(self, config, call, sizes):
        """Sets `projection_dim`."""
        config["projection_dim"] = sizes.of_weight(call.operation.gamma)[0]
