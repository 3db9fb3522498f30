"""Time folded into the batch axis and unfolded again, which is what `TimeDistributed` does."""

import keras

from tfprune.coupling.rules.base import Rule, pin_inputs, rule
from tfprune.coupling.rules.block_labels import fit


class FoldTime(keras.Operation):
    """Makes one batch of the time steps of all examples.

    Example:

    >>> FoldTime()(keras.ops.ones((2, 5, 3))).shape
    TensorShape([10, 3])
    """

    def call(self, inputs):
        """The steps as examples."""
        return keras.ops.reshape(inputs, (-1, *keras.ops.shape(inputs)[2:]))

    def compute_output_spec(self, inputs):
        """As many examples as there are steps, None if unknown."""
        batch, steps, *shape = inputs.shape
        rows = None if None in (batch, steps) else batch * steps
        return keras.KerasTensor((rows, *shape), inputs.dtype)


class UnfoldTime(keras.Operation):
    """Makes sequences of the examples that `FoldTime` made of `like`."""

    def call(self, inputs, like):
        """The sequences."""
        steps = keras.ops.shape(like)[1]
        return keras.ops.reshape(inputs, (-1, steps, *keras.ops.shape(inputs)[1:]))

    def compute_output_spec(self, inputs, like):
        """The first two axes are those of `like`."""
        return keras.KerasTensor((*like.shape[:2], *inputs.shape[1:]), inputs.dtype)


@rule(FoldTime)
class _Fold(Rule):
    def label(self, call, inputs, labels):
        (array,) = inputs
        if array.shape[0] != 1:
            name = call.operation.name.rpartition("_steps")[0]
            return pin_inputs(call, inputs, labels, f"{name!r} takes units for time steps")
        return [array[0]]

    def constants(self, call, inputs):
        (array,) = inputs
        return [fit(array, (1, *array.shape[1:]))[0]]


@rule(UnfoldTime)
class _Unfold(Rule):
    def label(self, call, inputs, labels):
        return [inputs[0][None]]

    def constants(self, call, inputs):
        return [inputs[0][None]]
