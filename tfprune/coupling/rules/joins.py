"""Operations that join several tensors: sums and other merges, concatenation, stacking."""

import keras
import numpy as np

from tfprune import _keras
from tfprune.coupling.calls import Tensor
from tfprune.coupling.labels import FIXED
from tfprune.coupling.rules.arithmetic import Elementwise
from tfprune.coupling.rules.base import rule
from tfprune.coupling.rules.block_labels import expanded
from tfprune.coupling.rules.data_movement import DataMovement


@rule(keras.layers.Add, *_keras.operation_classes("Add"))
class Add(Elementwise):
    """A sum; terms that are 0 can be dropped."""

    def drops(self, call, flow):
        (output,) = call.outputs
        needed = flow.is_needed(flow.labels(output))
        full = [place for place, tensor in enumerate(call.inputs) if tensor.shape == output.shape]
        zero_terms = [
            place
            for place in full
            if not (needed & (flow.constants(call.inputs[place]) != 0)).any()
        ]
        return tuple(zero_terms[len(zero_terms) == len(full) :])


@rule(
    keras.layers.Subtract,
    keras.layers.Average,
    keras.layers.Maximum,
    keras.layers.Minimum,
    *_keras.application_layers("CustomScaleLayer"),
)
class Merge(Elementwise):
    """A difference, a mean, the largest, the smallest, a scaled sum."""


class _Concatenation(DataMovement):
    """Concatenation of tensors and arrays along an axis."""

    def tie(self, call, arrays, labels):
        """Along an axis of unknown size, all of them must have the same units."""
        parts = self._parts(call, arrays, lambda number: FIXED)
        if self._is_dynamic(call):
            for part in parts[1:]:
                labels.unite(parts[0], part, f"{call.operation.name!r} joins it with other units")

    def moved(self, call, arrays, number):
        axis, parts = self.concatenation_axis(call), self._parts(call, arrays, number)
        common = np.broadcast_shapes(*(self._other_axes(part.shape, axis) for part in parts))
        parts = [
            np.broadcast_to(part, (*common[:axis], part.shape[axis], *common[axis + 1 :]))
            for part in parts
        ]
        if not self._is_dynamic(call):
            return [np.concatenate(parts, axis)]
        is_same = np.logical_and.reduce([part == parts[0] for part in parts])
        return [parts[0] if parts[0].dtype.kind == "i" else np.where(is_same, parts[0], np.nan)]

    def concatenation_axis(self, call):
        return call.operation.axis % len(call.outputs[0].shape)

    def _other_axes(self, shape, axis):
        return (*shape[:axis], 1, *shape[axis + 1 :])

    def _is_dynamic(self, call):
        axis = self.concatenation_axis(call)
        return axis == 0 or call.outputs[0].shape[axis] is None

    def _given(self, call):
        return call.args[0] if call.args else next(iter(call.kwargs.values()))

    def _parts(self, call, arrays, number):
        """An array for each part, of full size along the axis unless that is dynamic."""
        by_tensor, axis = dict(zip(call.inputs, arrays, strict=True)), self.concatenation_axis(call)
        parts = []
        for given in self._given(call):
            if isinstance(given, Tensor):
                part = by_tensor[given]
            else:
                part = np.vectorize(number, otypes=[type(number(0.0))])(np.asarray(given, float))
            parts.append(
                part if self._is_dynamic(call) else expanded(part, axis, given.shape[axis])
            )
        return parts


@rule(keras.layers.Concatenate, *_keras.operation_classes("Concatenate"))
class Concatenate(_Concatenation):
    """Concatenation along an axis; inputs without needed units can be dropped."""

    def drops(self, call, flow):
        dead = [
            place
            for place, tensor in enumerate(call.inputs)
            if not flow.is_needed(flow.labels(tensor)).any()
        ]
        return tuple(dead[len(dead) == len(call.inputs) :])


@rule(*_keras.operation_classes("Stack"))
class Stack(_Concatenation):
    """Concatenation along a new axis."""

    def _parts(self, call, arrays, number):
        axis = self.concatenation_axis(call)
        arrays = [np.expand_dims(array, axis) for array in arrays]
        by_tensor = dict(zip(call.inputs, arrays, strict=True))
        return [by_tensor[given] for given in self._given(call)]

    def pin_reason(self, call, arrays):
        if not all(isinstance(given, Tensor) for given in self._given(call)):
            return f"{call.operation.name!r} stacks it with numbers"
        return None
