"""Data movement between axes: reshape, transpose, new axes and axes of size 1."""

import keras
import numpy as np

from tfprune import _keras
from tfprune.coupling.labels import FIXED, placed
from tfprune.coupling.rules.base import rule
from tfprune.coupling.rules.block_labels import counts_along
from tfprune.coupling.rules.data_movement import DataMovement


class _Reshaping(DataMovement):
    """A reshape: runs of axes with equal products are matched, units on other axes are pinned.

    Where units end up on several axes, they are united until labels vary along the last only.
    """

    def shapes(self, call):
        """The shapes before and after with the batch axis, and whether that stays by itself."""
        raise NotImplementedError

    def pin_reason(self, call, arrays):
        if reshaped(arrays[0], *self.shapes(call)) is None:
            return f"{call.operation.name!r} reshapes axes of unknown size"
        return None

    def moved(self, call, arrays, number):
        return [reshaped(arrays[0], *self.shapes(call))]


def reshaped(array, before, after, keeps_batch):
    """Returns a label array in another shape.

    Args:
        array: An array with the batch axis and size 1 along axes where nothing changes.
        before, after: Shapes with the batch axis, None where dynamic.
        keeps_batch: Whether the first axis is known to stay by itself.

    Returns:
        The array, or None if it changes along axes that cannot be matched.
    """
    expanded, target = list(array.shape), []
    for ours, theirs in _matched(before, after, keeps_batch):
        changes = any(array.shape[axis] != 1 for axis in ours)
        if changes and None in [
            *(before[axis] for axis in ours),
            *(after[axis] for axis in theirs),
        ]:
            return None
        for axis in ours:
            expanded[axis] = before[axis] if changes else 1
        target += [after[axis] if changes else 1 for axis in theirs]
    return np.broadcast_to(array, expanded).reshape(target)


def _matched(before, after, keeps_batch):
    """Runs of axes that hold the same positions: pairs of axes before and after, in order."""
    start = (1, 1) if keeps_batch else (0, 0)
    front, (i, j) = [], start
    back, (last_i, last_j) = [], (len(before), len(after))
    while run := _run(before[i:last_i][::-1], after[j:last_j][::-1]):
        last_i, last_j = last_i - run[0], last_j - run[1]
        back.append((range(last_i, last_i + run[0]), range(last_j, last_j + run[1])))
    while run := _run(before[i:last_i], after[j:last_j]):
        front.append((range(i, i + run[0]), range(j, j + run[1])))
        i, j = i + run[0], j + run[1]
    batch = [(range(1), range(1))] if keeps_batch else []
    return [*batch, *front, (range(i, last_i), range(j, last_j)), *back[::-1]]


def _run(before, after):
    """How many axes on either side, from the first, have the same product; None if unknown."""
    if not before or not after or before[0] is None or after[0] is None:
        return None
    ours, theirs = before[0], after[0]
    i = j = 1
    while ours != theirs:
        if ours < theirs:
            if i == len(before) or before[i] is None:
                return None
            ours, i = ours * before[i], i + 1
        else:
            if j == len(after) or after[j] is None:
                return None
            theirs, j = theirs * after[j], j + 1
    return i, j


def changed_sizes(given, tensor, sizes):
    """Returns a target shape with the batch axis for the new sizes; -1 stays."""
    new = sizes.of_tensor(tensor)
    return tuple(
        size if before == after or size in (-1, None) else after
        for size, before, after in zip(given, tensor.shape, new, strict=True)
    )


@rule(keras.layers.Flatten)
class Flatten(_Reshaping):
    """One axis in place of all, channels last for either data format."""

    def shapes(self, call):
        shape = call.inputs[0].shape
        if self._is_channels_first(call):
            shape = (shape[0], *shape[2:], shape[1])
        return shape, call.outputs[0].shape, True

    def pin_reason(self, call, arrays):
        return super().pin_reason(call, self._last(call, arrays))

    def moved(self, call, arrays, number):
        return super().moved(call, self._last(call, arrays), number)

    def _last(self, call, arrays):
        return [np.moveaxis(a, 1, -1) if self._is_channels_first(call) else a for a in arrays]

    def _is_channels_first(self, call):
        is_first = call.operation.data_format == "channels_first"
        return is_first and len(call.inputs[0].shape) > 2


@rule(keras.layers.Reshape)
class Reshape(_Reshaping):
    """The same positions in other axes, for each example."""

    def shapes(self, call):
        return call.inputs[0].shape, call.outputs[0].shape, True

    def resize(self, config, call, sizes):
        """Sets the sizes of `target_shape` that change."""
        given = (None, *config["target_shape"])
        config["target_shape"] = changed_sizes(given, call.outputs[0], sizes)[1:]


@rule(*_keras.operation_classes("Reshape"))
class ReshapeOperation(_Reshaping):
    """The same positions in other axes, that of the batch among them."""

    def shapes(self, call):
        return call.inputs[0].shape, call.outputs[0].shape, False

    def resize(self, config, call, sizes):
        """Sets the sizes of `newshape` that change."""
        given = config["newshape"]
        if not isinstance(given, int):
            config["newshape"] = changed_sizes(given, call.outputs[0], sizes)


@rule(*_keras.operation_classes("Ravel"))
class Ravel(_Reshaping):
    """One axis in place of all, that of the batch too."""

    def shapes(self, call):
        return call.inputs[0].shape, call.outputs[0].shape, False


@rule(
    keras.layers.Permute,
    *_keras.operation_classes("Transpose", "Swapaxes", "Moveaxis", "ExpandDims", "Flip"),
)
class Permutation(DataMovement):
    """Axes in another order, a new axis, or positions in reverse order.

    The operation itself is called on the label array.
    """

    def moved(self, call, arrays, number):
        return [np.asarray(call.operation.call(arrays[0]))]


@rule(*_keras.operation_classes("Squeeze"))
class Squeeze(DataMovement):
    """Without axes of size 1."""

    def pin_reason(self, call, arrays):
        if not self._axes(call):
            return f"{call.operation.name!r} would squeeze the axis of units of which one is left"
        return None

    def moved(self, call, arrays, number):
        return [np.squeeze(arrays[0], axis=self._axes(call))]

    def resize(self, config, call, sizes):
        """Names the axes, since that of units is none of them even where one unit is left."""
        config["axis"] = self._axes(call)

    def _axes(self, call):
        axis, shape = call.operation.axis, call.inputs[0].shape
        if axis is None:
            axis = [i for i, size in enumerate(shape) if size == 1]
        return tuple(int(a) for a in np.atleast_1d(np.asarray(axis, int)))


@rule(keras.layers.RepeatVector)
class RepeatVector(DataMovement):
    """A vector at each of several steps."""

    def moved(self, call, arrays, number):
        return [arrays[0][:, None]]


@rule(*_keras.operation_classes("BroadcastTo"))
class BroadcastTo(DataMovement):
    """The same positions again and again along axes of size 1 and new ones in front.

    In a layer that stays what it is, units begin on the first of these axes, such as heads that one
    mask is for: whether the code follows is shown by running it, see `resized_proofs`.
    """

    def label(self, call, inputs, labels):
        (output,), (result,) = call.outputs, super().label(call, inputs, labels)
        rank = len(output.shape)
        before = (1,) * (rank - len(call.inputs[0].shape)) + tuple(call.inputs[0].shape)
        spread = [a for a in range(1, rank) if before[a] == 1 and output.shape[a] != 1]
        is_fixed = call.in_place and result.size == 1 and (result == FIXED).all()
        if not is_fixed or not spread or labels.is_literal(call):
            return [result]
        labels.took_constants = True
        result = placed(labels.fresh(output.shape[spread[0]]), spread[0] - 1, rank - 1)
        call.memo["shapes"] = [result.shape]
        return [result]

    def moved(self, call, arrays, number):
        rank = len(call.outputs[0].shape)
        return [arrays[0].reshape((1,) * (rank - arrays[0].ndim) + arrays[0].shape)]

    def resize(self, config, call, sizes):
        """Sets the sizes of `shape` that change."""
        shape, (output,) = list(config["shape"]), call.outputs
        for axis in range(len(shape)):
            counts = counts_along(sizes, output, axis)
            if counts is not None:
                shape[axis] = int(counts.sum())
        config["shape"] = tuple(shape)
