"""Layers that scale by constants, or by a norm over the units of a position."""

import keras
import numpy as np

from tfprune.coupling.calls import Call, Tensor
from tfprune.coupling.labels import along
from tfprune.coupling.rules.base import (
    Need,
    Rule,
    has_rule,
    pin_inputs,
    rule,
    rule_of,
    unknown_outputs,
)
from tfprune.coupling.rules.block_labels import fit, operation_axes
from tfprune.coupling.rules.parts import OfParts


@rule(keras.layers.Normalization)
class Normalization(Rule):
    """`(x - mean) / sqrt(variance)` with numbers that were given, or learned from data."""

    def label(self, call, inputs, labels):
        layer, array = call.operation, inputs[0]
        for axis in np.flatnonzero(np.array(array.shape) != 1):
            place, channels = self._place(call, axis), along(array, axis)
            if place is None:  # the same numbers along this axis
                continue
            if channels is None or (layer.input_mean is not None and np.ndim(layer.input_mean) > 1):
                labels.pin(array, f"{layer.name!r} has numbers for several axes of units")
            elif layer.input_mean is None:
                labels.slice(layer, layer.adapt_mean, place, channels)
                labels.slice(layer, layer.adapt_variance, place, channels)
        return [array]

    def constants(self, call, inputs):
        layer, array = call.operation, inputs[0]
        mean, deviation = (np.asarray(v, "float64")[0] for v in (layer.mean, layer.variance))
        deviation = np.maximum(np.sqrt(deviation), keras.config.epsilon())
        values = array * deviation + mean if layer.invert else (array - mean) / deviation
        return [fit(values, array.shape)]

    def resize(self, config, call, sizes):
        """Gathers the given mean and variance."""
        last = max(operation_axes(call), default=0) - 1
        for name in ("mean", "variance"):
            if np.ndim(config.get(name)) == 1:
                config[name] = _gathered(config[name], call, last, sizes)

    def _place(self, call, axis):
        """Which axis of the numbers belongs to an axis of the labels, or None."""
        kept = sorted(operation_axes(call))
        return kept.index(axis + 1) if axis + 1 in kept else None


@rule(keras.layers.Rescaling)
class Rescaling(Rule):
    """`x * scale + offset`, with numbers or a number for each channel."""

    def label(self, call, inputs, labels):
        array = inputs[0]
        ranks = [np.ndim(numbers) for numbers in self._numbers(call)]
        if max(ranks) > 1 or (max(ranks) == 1 and along(array, -1) is None):
            labels.pin(array, f"{call.operation.name!r} has a number for each channel")
        return [array]

    def constants(self, call, inputs):
        scale, offset = (np.asarray(n, "float64") for n in self._numbers(call))
        if max(scale.ndim, offset.ndim) > 1:
            return unknown_outputs(call)
        return [fit(inputs[0] * scale + offset, inputs[0].shape)]

    def resize(self, config, call, sizes):
        """Gathers the number of each channel."""
        last = len(call.inputs[0].shape) - 2
        for name in ("scale", "offset"):
            numbers = getattr(call.operation, name)
            if np.ndim(numbers) == 1:
                config[name] = _gathered(numbers, call, last, sizes)

    def _numbers(self, call):
        return call.operation.scale, call.operation.offset


def _gathered(numbers, call, axis, sizes):
    """Numbers gathered along an axis of the input, if there are units along it."""
    (tensor,), numbers = call.inputs, np.asarray(numbers)
    has_units = sizes.coupling.tensor_labels[tensor].shape[axis] != 1
    if numbers.size > 1 and has_units:
        numbers = np.repeat(numbers, sizes.counts_along(tensor, axis))
    return numbers.tolist()


@rule(keras.layers.UnitNormalization)
class UnitNormalization(Rule):
    """Divides by the length of the vector along some axes; what is 0 adds nothing to it."""

    def label(self, call, inputs, labels):
        if (np.array(inputs[0].shape) != 1).sum() > 1:
            labels.pin(inputs[0], f"{call.operation.name!r} normalises units on several axes")
        return [inputs[0]]

    def constants(self, call, inputs):
        return [np.where(inputs[0] == 0, inputs[0], np.nan)]

    def needs(self, call, flow):
        (tensor,) = call.inputs
        labels = flow.labels(tensor)
        joined = [axis for axis in operation_axes(call) if labels.shape[axis - 1] != 1]
        if not joined or not flow.is_needed(labels).any():
            return []
        counts = flow.constants(tensor) != 0
        return [Need(labels, counts, f"{call.operation.name!r} counts it in the length")]


@rule(keras.layers.Masking)
class Masking(Rule):
    """Masks the steps at which all units hold a value, so none may be missing."""

    def label(self, call, inputs, labels):
        labels.pin(inputs[0], f"{call.operation.name!r} masks steps by all of its units")
        return [inputs[0]]

    def constants(self, call, inputs):
        return [np.where(inputs[0] == 0, inputs[0], np.nan)]


@rule(keras.layers.SpectralNormalization)
class SpectralNormalization(OfParts):
    """The layer inside, with the kernel it holds: in inference nothing is normalised.

    While it trains, its kernel is divided by the largest singular value first, and what results is
    the new kernel. Units whose elements are all 0 do not change that value.
    """

    def label(self, call, inputs, labels):
        layer = call.operation
        if not has_rule(layer.layer):
            reason = f"{layer.name!r} normalises a layer without a rule, {layer.layer.name!r}"
            return pin_inputs(call, inputs, labels, reason)
        (outputs,) = self.label_parts(call, inputs, labels)
        last = len(layer.kernel.shape) - 1
        for piece in [p for p in labels.slices if p.variable is layer.kernel and p.axis == last]:
            labels.slice(layer, layer.vector_u, 1, piece.labels)
        return outputs

    def constants(self, call, inputs):
        if not has_rule(call.operation.layer):
            return unknown_outputs(call)
        return self.constants_of_parts(call, inputs)[0]

    def parts(self, call):
        layer = call.operation.layer
        if "parts" not in call.memo:
            outputs = tuple(Tensor(tensor.shape, tensor.dtype) for tensor in call.outputs)
            inside = Call(layer, call.inputs, {}, outputs)
            call.memo["parts"] = [(rule_of(layer), inside, None)] if has_rule(layer) else []
        return call.memo["parts"]

    def config_of(self, config, place):
        return config["layer"]["config"]
