"""Reductions: sums, means and norms, and operations along an axis that keep it, such as softmax.

Over axes without units they pass units on. Over units, most depend on each, and pin them. A sum
does not depend on a unit that is 0, nor a product on one that is 1: the neutral element.
"""

import keras
import numpy as np

from tfprune import _keras
from tfprune.coupling.rules.base import Need, Rule, fixed, pin_inputs, rule, unknown_outputs
from tfprune.coupling.rules.block_labels import (
    operation_axes,
    unit_axis,
    with_batch_axes,
    with_batch_axis,
    without_batch_axis,
)


class AlongAxis(Rule):
    """Operations that mix the positions along some axes and keep these axes, such as softmax."""

    def axes(self, call):
        """The axes that are mixed, counted with the batch axis."""
        return operation_axes(call)

    def label(self, call, inputs, labels):
        array, *masks = with_batch_axes(call, inputs)
        for mask in masks:
            labels.pin(mask, f"{call.operation.name!r} takes it as a mask")
        is_moved = len(call.outputs[0].shape) != array.ndim
        if self._is_over_units(call, inputs[0]) or is_moved:
            return pin_inputs(call, inputs, labels, self.pin_reason(call))
        return [inputs[0]] * len(call.outputs)

    def pin_reason(self, call):
        """Why units along these axes are pinned."""
        return f"{call.operation.name!r} joins its units"

    def constants(self, call, inputs):
        return unknown_outputs(call)

    def _is_over_units(self, call, array):
        return unit_axis(with_batch_axis(call.inputs[0], array)) in self.axes(call)


@rule(keras.layers.Softmax, *_keras.operation_classes("Softmax", "LogSoftmax", "Sparsemax"))
class Softmax(AlongAxis):
    """Division by a sum over axes, in which each position counts."""

    def pin_reason(self, call):
        """Without a unit the others would become larger."""
        return f"{call.operation.name!r} joins its units: it divides by a sum over all of them"


@rule(*_keras.operation_classes("TopK"))
class TopK(AlongAxis):
    """The largest along the last axis, and where they stand."""

    def axes(self, call):
        """The last."""
        return [len(call.inputs[0].shape) - 1]

    def pin_reason(self, call):
        """Which places are chosen depends on all of them."""
        return f"{call.operation.name!r} chooses among its units"


@rule(
    *_keras.operation_classes(
        *"Cumsum Cumprod Nancumsum Nancumprod Sort Argsort Argpartition Diff".split(),
    )
)
class Mixing(AlongAxis):
    """Each position of the output depends on all along the axes."""


@rule(*_keras.operation_classes("Normalize"))
class Normalize(AlongAxis):
    """Division by the norm along an axis, to which units that are 0 add nothing."""

    def label(self, call, inputs, labels):
        return [inputs[0]]

    def constants(self, call, inputs):
        return [np.where(inputs[0] == 0, 0.0, np.nan)]

    def needs(self, call, flow):
        array = flow.labels(call.inputs[0])
        if not self._is_over_units(call, array):
            return []
        where = flow.constants(call.inputs[0]) != 0
        return [Need(array, where, f"{call.operation.name!r} counts it in the norm")]


class Reduction(Rule):
    """One number in place of all along some axes."""

    neutral = None
    """The constant of units that the result does not depend on, or None if there is none."""

    def over(self, values, axes, sizes):
        """The result for constants.

        Args:
            values: Constants with the batch axis.
            axes: The axes that are reduced.
            sizes: Dict from an axis to how often each value along it is repeated; NaN = not known.

        Returns:
            An array with size 1 along the axes.
        """
        return np.full([1 if a in axes else n for a, n in enumerate(values.shape)], np.nan)

    def label(self, call, inputs, labels):
        (array,), output = with_batch_axes(call, inputs), call.outputs[0]
        name, axes = call.operation.name, self.axes(call)
        if unit_axis(array) in axes:
            if not self.can_drop(call):
                labels.pin(array, f"{name!r} counts each of its units")
            call.memo["over units"] = True
            return [fixed(output)]
        passed = without_batch_axis(output, self._reduced(call, array))
        if passed is None:
            labels.pin(array, f"{name!r} moves its units to the batch axis")
            return [fixed(output)]
        return [passed]

    def axes(self, call):
        """The axes that are reduced, counted with the batch axis."""
        return operation_axes(call)

    def can_drop(self, call):
        """Whether units that are the neutral element can be removed."""
        return self.neutral is not None

    def constants(self, call, inputs):
        (array,), output = with_batch_axes(call, inputs), call.outputs[0]
        axes, shape = self.axes(call), call.inputs[0].shape
        sizes = {a: 1 if array.shape[a] != 1 else shape[a] or np.nan for a in axes}
        result = without_batch_axis(output, self._reduced(call, self.over(array, axes, sizes)))
        return unknown_outputs(call) if result is None else [result]

    def needs(self, call, flow):
        if "over units" not in call.memo or not self.can_drop(call):
            return []
        where = flow.constants(call.inputs[0]) != self.neutral
        reason = f"{call.operation.name!r} runs over it"
        return [Need(flow.labels(call.inputs[0]), where, reason)]

    def _reduced(self, call, array):
        """Without the axes that are reduced, or with size 1 there."""
        axes = self.axes(call)
        first = array[tuple(slice(1) if a in axes else slice(None) for a in range(array.ndim))]
        return first if len(call.outputs[0].shape) == array.ndim else np.squeeze(first, axes)


@rule(*_keras.operation_classes("Sum"))
class Sum(Reduction):
    """A sum, which does not depend on units that are 0."""

    neutral = 0.0

    def over(self, values, axes, sizes):
        total = values.sum(axis=axes, keepdims=True)
        return np.where(total == 0, 0.0, total * np.prod(list(sizes.values())))


@rule(*_keras.operation_classes("Mean"))
class Mean(Reduction):
    """A mean, which divides by how many there are."""

    def over(self, values, axes, sizes):
        return values.mean(axis=axes, keepdims=True)


@rule(*_keras.operation_classes("Max", "Amax"))
class Max(Reduction):
    """The largest."""

    def over(self, values, axes, sizes):
        return values.max(axis=axes, keepdims=True)

    def constants(self, call, inputs):
        if getattr(call.operation, "initial", None) is not None:
            return unknown_outputs(call)
        return super().constants(call, inputs)


@rule(*_keras.operation_classes("Min", "Amin"))
class Min(Max):
    """The smallest."""

    def over(self, values, axes, sizes):
        return values.min(axis=axes, keepdims=True)


@rule(*_keras.operation_classes("Prod"))
class Product(Reduction):
    """A product, which does not depend on units that are 1."""

    neutral = 1.0


@rule(*_keras.operation_classes("CountNonzero", "Any"))
class CountNonzero(Reduction):
    """How many are not 0, or whether any is."""

    neutral = 0.0


@rule(*_keras.operation_classes("Norm"))
class Norm(Reduction):
    """A norm of a vector: the p-th root of a sum of powers, or the largest."""

    neutral = 0.0

    def can_drop(self, call):
        order = call.operation.ord
        is_vector = len(operation_axes(call)) == 1
        return order in (None, "fro") or (is_vector and order != "nuc" and order > 0)


@rule(
    *_keras.operation_classes(
        *"Var Std Argmax Argmin All Median Ptp Logsumexp Average Nanmax Nanmin".split(),
        *"Nanmean Nanmedian Nanprod Nanstd Nansum Nanvar Nanargmax Nanargmin Trapezoid".split(),
    )
)
class Statistic(Reduction):
    """Statistics that depend on the number of units or on their order."""


@rule(*_keras.operation_classes("Moments"))
class Moments(Reduction):
    """Mean and variance: of a constant, itself and 0."""

    def axes(self, call):
        """The attribute has another name here."""
        rank = len(call.inputs[0].shape)
        return tuple(axis % rank for axis in np.atleast_1d(call.operation.axes))

    def over(self, values, axes, sizes):
        return values.mean(axis=axes, keepdims=True)

    def label(self, call, inputs, labels):
        return super().label(call, inputs, labels)[:1] * 2

    def constants(self, call, inputs):
        if "over units" in call.memo:
            return unknown_outputs(call)
        mean = super().constants(call, inputs)[0]
        return [mean, np.where(np.isnan(mean), np.nan, 0.0)]
