"""Dense layers by an equation, such as `abc,cde->abde`."""

from dataclasses import dataclass

import keras
import numpy as np

from tfprune.coupling.labels import FIXED
from tfprune.coupling.rules.base import Fold, rule
from tfprune.coupling.rules.block_labels import with_batch_axis
from tfprune.coupling.rules.linear import Linear


@dataclass(frozen=True)
class _Equation:
    """The letters of an equation.

    Attributes:
        inputs, kernel, outputs: The letters of each; an ellipsis is left out.
        is_left: Whether they follow an ellipsis, so that they are counted from the end.
        contracted: The letter of the inputs that is summed over with the kernel, or None.
        made: The letter of the outputs that only the kernel has, or None.
        is_plain: Whether the kernel is a matrix of these two, and nothing else is summed over.
        has_parts: Whether it makes heads that have parts.
    """

    inputs: str
    kernel: str
    outputs: str
    is_left: bool
    contracted: str | None
    made: str | None
    is_plain: bool
    has_parts: bool

    @classmethod
    def of(cls, layer, units=None, by_parts=False):
        """Reads `...ab,bc->...ac`.

        Args:
            layer: The layer.
            units: The label array of the input with the batch axis: of several letters that are
                summed over, units are along the one along which it varies.
            by_parts: Whether units are the parts of each head rather than the heads.
        """
        left, outputs = layer.equation.replace(" ", "").split("->")
        inputs, kernel = left.split(",")
        is_left = inputs.startswith("...")
        inputs, outputs = inputs.replace("...", ""), outputs.replace("...", "")
        contracted = [a for a in inputs if a in kernel and a not in outputs]
        made = [a for a in outputs if a in kernel and a not in inputs]
        sizes = dict(zip(kernel, layer.kernel.shape, strict=True)) if layer.built else {}
        if units is not None:
            first = units.ndim - len(inputs) if is_left else 0
            varying = [a for a in contracted if units.shape[first + inputs.index(a)] != 1]
            contracted = varying if len(varying) == 1 else contracted
        contracted = _unit_letter(contracted, inputs, sizes)
        heads = _unit_letter(made, outputs, sizes)
        has_parts = len(made) > 1 and heads != made[-1]
        made = made[-1] if by_parts and made else heads
        is_summed = any(a not in kernel and a not in outputs for a in inputs)
        return cls(
            inputs=inputs,
            kernel=kernel,
            outputs=outputs,
            is_left=is_left,
            contracted=contracted,
            made=made,
            is_plain=len(kernel) == 2 and not is_summed,
            has_parts=has_parts,
        )

    def axis(self, letters, letter, rank):
        """The axis of a letter in a tensor, counted without the batch axis."""
        place = letters.index(letter)
        return place - len(letters) + rank - 1 if self.is_left else place - 1


def _unit_letter(found, letters, sizes):
    """Which of several letters units are along: heads rather than what each has, else the last.

    Heads are an axis after positions: the first of the letters, if it is not the first after the
    batch.
    """
    heads = [a for a in found[:1] if len(found) > 1 and letters.index(a) > 1 and sizes.get(a) != 1]
    return (heads or found[-1:] or [None])[0]


def _equation(call):
    """The equation of a call, read when it was labelled."""
    return call.memo.get("equation") or _Equation.of(call.operation)


@rule(keras.layers.EinsumDense)
class EinsumDense(Linear):
    """Units are those of an axis that the kernel makes; one that it contracts uses units.

    Of an attention that is written with these layers, whole heads are the units; or, where all of
    them must stay, what each of them has.

    Where the kernel has other axes too, the other indices along them are parts of a unit.
    """

    def label(self, call, inputs, labels):
        by_parts = id(call.operation) in labels.other_axis
        units = with_batch_axis(call.inputs[0], inputs[0])
        call.memo["equation"] = equation = _Equation.of(call.operation, units, by_parts)
        call.memo["has other axis"] = equation.has_parts
        return super().label(call, inputs, labels)

    def applies(self, call):
        """Whether the equation sums over an axis of the inputs and makes one of the outputs."""
        equation = _equation(call)
        return super().applies(call) and equation.contracted and equation.made

    def pin_reason(self, call, incoming):
        """Why the units are pinned."""
        equation = _equation(call)
        if equation.contracted and equation.made:
            return super().pin_reason(call, incoming)
        return f"the equation of {call.operation.name!r} does not make units out of others"

    def axes(self, call):
        """The axes of the contracted and of the made letter."""
        equation = _equation(call)
        pairs = (
            (equation.inputs, equation.contracted, call.inputs[0]),
            (equation.outputs, equation.made, call.outputs[0]),
        )
        return tuple(
            equation.axis(letters, letter, len(tensor.shape)) if letter else -1
            for letters, letter, tensor in pairs
        )

    def is_padded(self, call):
        """Whether the kernel has other axes, or the bias lacks the units'."""
        equation, layer = _equation(call), call.operation
        has_bias_axis = layer.bias is None or equation.made in layer.bias_axes
        return not (equation.is_plain and has_bias_axis)

    def taps(self, call):
        """One for each index along the other axes of the kernel."""
        equation, kernel = _equation(call), np.asarray(call.operation.kernel)
        axes = [equation.kernel.index(a) for a in (equation.contracted, equation.made)]
        kernel = np.moveaxis(kernel, axes, (-2, -1))
        return kernel.reshape(-1, *kernel.shape[-2:])

    def bias(self, call):
        """The bias of each unit where it is one number."""
        equation, layer = _equation(call), call.operation
        size = layer.kernel.shape[equation.kernel.index(equation.made)]
        if layer.bias is None:
            return np.zeros(size)
        rows = np.asarray(layer.bias, "float64")
        if equation.made in layer.bias_axes:
            rows = np.moveaxis(rows, self._bias_axis(call), 0).reshape(size, -1)
        else:
            rows = np.broadcast_to(rows.reshape(1, -1), (size, rows.size))
        return np.where((rows == rows[:, :1]).all(axis=1), rows[:, 0], np.nan)

    def slices(self, call, inputs, outputs, labels):
        """One axis of the kernel for each, and that of the bias if it has it."""
        equation, layer = _equation(call), call.operation
        used = equation.kernel.index(equation.contracted)
        labels.slice(layer, layer.kernel, used, inputs, uses=True)
        made = equation.kernel.index(equation.made)
        labels.slice(layer, layer.kernel, made, outputs, makes=True)
        if layer.bias is not None and equation.made in layer.bias_axes:
            labels.slice(layer, layer.bias, self._bias_axis(call), outputs, makes=True)

    def folds(self, call, flow):
        return [self._shaped(call, fold) for fold in super().folds(call, flow)]

    def _shaped(self, call, fold):
        """The addition in the shape of the bias, made with an axis for the units first."""
        layer, size = call.operation, len(fold.values)
        if layer.bias is None:
            axis, shape = 0, [1] * (len(call.outputs[0].shape) - 1 - self.axes(call)[1])
        else:
            axis, shape = self._bias_axis(call), list(layer.bias.shape)
        single = [size if a == axis else 1 for a in range(len(shape))]
        values = np.broadcast_to(fold.values.reshape(single), np.maximum(shape, single))
        labels = [np.full(length, FIXED) for length in values.shape]
        labels[axis] = fold.labels[0]
        return Fold(layer, values, tuple(labels))

    def add_bias(self, config, call):
        """Sets `bias_axes`."""
        config["bias_axes"] = _equation(call).made

    def resize(self, config, call, sizes):
        """Sets the size in `output_shape`, which leaves the batch axis or an ellipsis out."""
        layer = call.operation
        equation = _equation(call)
        if not equation.made:
            return
        place = equation.outputs.index(equation.made) - (not equation.is_left)
        size = sizes.of_weight(layer.kernel)[equation.kernel.index(equation.made)]
        shape = config["output_shape"]
        shape = [shape] if isinstance(shape, int) else list(shape)
        shape[place] = size
        config["output_shape"] = tuple(shape)

    def _bias_axis(self, call):
        """The axis of the units in the bias, whose axes begin with the first of `bias_axes`."""
        equation = _equation(call)
        first = min(equation.outputs.index(letter) for letter in call.operation.bias_axes)
        return equation.outputs.index(equation.made) - first
