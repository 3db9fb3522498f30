"""Operations that join several tensors: element by element, or side by side."""

import functools

import keras
import numpy as np

from tfprune import _keras
from tfprune.coupling.labels import FIXED
from tfprune.coupling.rules.base import Rule, fixed, rule, unknown


class Join(Rule):
    """Element by element over tensors that broadcast: units that meet are coupled."""

    def combine(self, arrays):
        """What becomes of constants; NaN where any of them is not known."""
        raise NotImplementedError

    def label(self, call, inputs, labels):
        name, (output,) = call.operation.name, call.outputs
        if any(len(tensor.shape) != len(output.shape) for tensor in call.inputs):
            for array in inputs:
                labels.pin(array, f"{name!r} joins tensors of different ranks")
            return [fixed(output)]
        joined = []
        for tensor, array in zip(call.inputs, inputs, strict=True):
            if _is_spread(tensor, output, inputs):
                # It meets all units of an axis: coupling it would tie them all to one another.
                labels.pin(array, f"{name!r} spreads it over other units")
            else:
                joined.append(array)
        for array in joined[1:]:
            labels.unite(joined[0], array, f"{name!r} joins it with fixed channels")
        shape = np.broadcast_shapes(*(array.shape for array in joined))
        return [np.broadcast_to(functools.reduce(_first_unit, joined), shape)]

    def constants(self, call, inputs):
        if any(len(tensor.shape) != len(call.outputs[0].shape) for tensor in call.inputs):
            return [unknown(call.outputs[0])]
        return [self.combine(np.broadcast_arrays(*inputs))]


def _is_spread(tensor, output, inputs):
    """Whether a tensor has one position along an axis where other operands have units."""
    return any(
        size == 1 and full != 1 and any(array.shape[axis] != 1 for array in inputs)
        for axis, (size, full) in enumerate(zip(tensor.shape[1:], output.shape[1:], strict=True))
    )


def _first_unit(ours, theirs):
    return np.where(ours == FIXED, theirs, ours)


@rule(keras.layers.Add)
class Add(Join):
    """A sum, which can do without terms that are 0."""

    def combine(self, arrays):
        return functools.reduce(np.add, arrays)

    def drops(self, call, flow):
        (output,) = call.outputs
        needed = flow.is_needed(flow.labels(output))
        full = [place for place, tensor in enumerate(call.inputs) if tensor.shape == output.shape]
        silent = [
            place
            for place in full
            if not (needed & (flow.constants(call.inputs[place]) != 0)).any()
        ]
        return tuple(silent[len(silent) == len(full) :])


@rule(keras.layers.Subtract)
class Subtract(Join):
    """A difference."""

    def combine(self, arrays):
        return functools.reduce(np.subtract, arrays)


@rule(keras.layers.Average)
class Average(Join):
    """A mean."""

    def combine(self, arrays):
        return functools.reduce(np.add, arrays) / len(arrays)


@rule(keras.layers.Maximum)
class Maximum(Join):
    """The largest."""

    def combine(self, arrays):
        return functools.reduce(np.maximum, arrays)


@rule(keras.layers.Minimum)
class Minimum(Join):
    """The smallest."""

    def combine(self, arrays):
        return functools.reduce(np.minimum, arrays)


@rule(keras.layers.Multiply)
class Multiply(Join):
    """A product: 0 wherever any factor is."""

    def combine(self, arrays):
        product = functools.reduce(np.multiply, arrays)
        return np.where(functools.reduce(np.logical_or, [a == 0 for a in arrays]), 0.0, product)


@rule(*_keras.application_layers("CustomScaleLayer"))
class ScaledAdd(Join):
    """`x + scale * y`."""

    def combine(self, arrays):
        return arrays[0] + np.where(arrays[1] == 0, 0.0, np.nan)


@rule(keras.layers.Concatenate)
class Concatenate(Rule):
    """Side by side along an axis."""

    def label(self, call, inputs, labels):
        joined = self._side_by_side(call, inputs)
        if joined is None:
            for array in inputs:
                labels.pin(array, f"{call.operation.name!r} joins along an axis of unknown size")
            return [fixed(call.outputs[0])]
        return [joined]

    def constants(self, call, inputs):
        joined = self._side_by_side(call, inputs)
        return [unknown(call.outputs[0]) if joined is None else joined]

    def drops(self, call, flow):
        dead = [
            place
            for place, tensor in enumerate(call.inputs)
            if not flow.is_needed(flow.labels(tensor)).any()
        ]
        return tuple(dead[len(dead) == len(call.inputs) :])

    def _side_by_side(self, call, arrays):
        rank = len(call.outputs[0].shape)
        axis = call.operation.axis % rank - 1
        if axis < 0 or any(tensor.shape[axis + 1] is None for tensor in call.inputs):
            return None
        others = [tuple(1 if i == axis else s for i, s in enumerate(a.shape)) for a in arrays]
        common = np.broadcast_shapes(*others)
        return np.concatenate(
            [
                np.broadcast_to(
                    array, tuple(t.shape[i + 1] if i == axis else s for i, s in enumerate(common))
                )
                for t, array in zip(call.inputs, arrays, strict=True)
            ],
            axis=axis,
        )
