"""Fourier transforms and windows over the last axes; real and imaginary parts go together."""

import keras
import numpy as np

from tfprune import _keras
from tfprune.coupling.calls import Tensor
from tfprune.coupling.rules.base import Rule, pin_inputs, rule, unknown_outputs
from tfprune.coupling.rules.block_labels import (
    block,
    unit_axis,
    with_batch_axes,
    without_batch_axis,
)


class _Transform(Rule):
    """Sums over the last axes of parts that have the same shape."""

    axes = (-1,)

    def label(self, call, inputs, labels):
        name, rank = call.operation.name, len(call.inputs[0].shape)
        arrays = with_batch_axes(call, inputs)
        joined = self._joined(call, arrays, labels)
        over = [axis for axis in self.axes if unit_axis(joined) == axis + rank]
        reason = f"{name!r} transforms it together with numbers"
        if over:
            reason = f"{name!r} transforms the axis of its units, {over[0]}: it sums over them"
        if over or any(
            np.ndim(leaf) for leaf in keras.tree.flatten(call.args) if not isinstance(leaf, Tensor)
        ):
            return pin_inputs(call, arrays, labels, reason)
        return [
            without_batch_axis(tensor, self._reshaped(joined, len(tensor.shape)))
            for tensor in call.outputs
        ]

    def _joined(self, call, arrays, labels):
        result = arrays[0]
        for array in arrays[1:]:
            labels.unite(result, array, f"{call.operation.name!r} joins it with fixed channels")
            result = result if unit_axis(result) is not None else array
        return block(labels, result, f"{call.operation.name!r} joins its units")

    def _reshaped(self, array, rank):
        """With axes of size 1 for those transformed, as many as the output has."""
        kept = array.shape[: array.ndim - len(self.axes)]
        return array.reshape((*kept, *(1,) * (rank - len(kept))))

    def constants(self, call, inputs):
        return unknown_outputs(call)


@rule(*_keras.operation_classes("FFT", "RFFT", "IRFFT", "STFT", "ExtractSequences"))
class OverLastAxis(_Transform):
    """Over the last axis."""


@rule(*_keras.operation_classes("FFT2", "IFFT2", "ISTFT"))
class OverLastTwoAxes(_Transform):
    """Over the last two axes."""

    axes = (-2, -1)


def _is_tensor(leaf):
    return isinstance(leaf, Tensor)
