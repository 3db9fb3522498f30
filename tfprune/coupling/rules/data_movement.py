"""Base class of rules for operations that only move data: they are applied to the labels."""

import numpy as np

from tfprune.coupling.labels import FIXED
from tfprune.coupling.rules.base import Rule, pin_inputs, unknown_outputs
from tfprune.coupling.rules.block_labels import (
    block,
    fit_output,
    shrunk,
    with_batch_axes,
    without_batch_axis,
)


class DataMovement(Rule):
    """Every position of the outputs is a position of an input, or a number."""

    def pin_reason(self, call, arrays):
        """Returns why all units are pinned, given label arrays with the batch axis; or None."""

    def tie(self, call, arrays, labels):
        """Unites or pins units where the smaller operation could not be written otherwise."""

    def moved(self, call, arrays, number):
        """Returns the outputs for labels or constants.

        Args:
            call: The `Call`.
            arrays: An array for each input, with the batch axis, size 1 along axes where it is the
                same.
            number: Function of a number that the operation inserts; returns its label or constant.

        Returns:
            An array for each output.
        """
        raise NotImplementedError

    def concatenation_axis(self, call):
        """The axis of the output along which inputs are concatenated, or None."""

    # What follows is the same for all of them.

    def label(self, call, inputs, labels):
        name = call.operation.name
        arrays = with_batch_axes(call, inputs)
        reason = self.pin_reason(call, arrays)
        outputs = None
        if reason is None:
            self.tie(call, arrays, labels)
            reason = f"{name!r} moves it among fixed channels"
            is_first = call.in_place != (id(call.operation) in labels.other_axis)
            moved = list(map(shrunk, self.moved(call, arrays, lambda number: FIXED)))
            concatenated = self.concatenation_axis(call)
            call.memo["has other axis"] = concatenated is None and any(
                np.count_nonzero(np.array(array.shape) != 1) > 1 for array in moved
            )
            outputs = [block(labels, array, reason, concatenated, is_first) for array in moved]
            outputs = list(map(without_batch_axis, call.outputs, outputs))
            reason = f"{name!r} moves its units to the batch axis"
        if outputs is None or any(array is None for array in outputs):
            return pin_inputs(call, arrays, labels, reason)
        call.memo["shapes"] = [array.shape for array in outputs]
        return outputs

    def constants(self, call, inputs):
        if "shapes" not in call.memo:
            return unknown_outputs(call)
        arrays = with_batch_axes(call, inputs)
        outputs = self.moved(call, arrays, lambda number: number)
        return list(map(fit_output, call.outputs, outputs, call.memo["shapes"]))


def argument(call, place, name, default=None):
    """Returns an argument of a call, positional or by keyword."""
    return call.args[place] if len(call.args) > place else call.kwargs.get(name, default)
