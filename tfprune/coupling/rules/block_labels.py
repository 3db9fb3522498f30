"""Label arrays with the batch axis in block form: labels vary along one axis at most.

What is kept of a tensor must be a block of it: all positions at some indices of one axis. Where an
operation puts units on several axes, they are united until labels vary along one. The batch axis is
an axis without units.
"""

import numpy as np


def with_batch_axis(tensor, array):
    """Returns the array of a tensor with a batch axis of size 1."""
    return array[None] if tensor.shape else array


def with_batch_axes(call, inputs):
    """The arrays of the inputs of a call, each with its batch axis."""
    return list(map(with_batch_axis, call.inputs, inputs))


def without_batch_axis(tensor, array):
    """Returns an array without its batch axis, or None if it varies along that."""
    if not tensor.shape:
        return array
    return array[0] if array.shape[0] == 1 else None


def shrunk(array):
    """Returns an array with size 1 along axes on which it does not vary."""
    for axis in np.flatnonzero(array.shape):  # a piece of a split may be empty
        first = array.take([0], axis=axis)
        if (array == first).all():
            array = first
    return array


def block(labels, array, reason, concatenation_axis=None, first=False):
    """Unites labels until they vary along one axis: the last that is not concatenated along.

    Args:
        labels: The `Labels` to record in.
        array: The label array of an output.
        reason: Why units that are united with a fixed position are pinned.
        concatenation_axis: The axis along which inputs are concatenated, if any.
        first: Whether to take the last but one instead: of an attention by hand the heads.

    Returns:
        The label array with size 1 along the other axes.
    """
    array = shrunk(array)
    varying = [axis for axis, size in enumerate(array.shape) if size != 1]
    if len(varying) < 2:
        return array
    kept = [axis for axis in varying if axis != concatenation_axis][-2:][0 if first else -1]
    first = array[tuple(slice(None) if a == kept else slice(1) for a in range(array.ndim))]
    labels.unite(array, first, reason)
    labels.blocks.append(first.reshape(-1))
    return first


def fit(constants, shape):
    """Returns constants in the shape of labels; NaN where they vary and the labels do not."""
    for axis, size in enumerate(shape):
        if size == 1 and constants.shape[axis] > 1:
            first = constants.take([0], axis=axis)
            same = (constants == first).all(axis=axis, keepdims=True)
            constants = np.where(same, first, np.nan)
    return constants


def fit_output(tensor, constants, shape):
    """Constants with the batch axis for the labels of an output, which have a shape without it."""
    return fit(constants, (1, *shape))[0] if tensor.shape else constants


def unit_axis(array):
    """The axis along which an array in block form varies, or None."""
    return next((axis for axis, size in enumerate(array.shape) if size != 1), None)


def operation_axes(call):
    """The axes along which an operation works, counted with the batch axis: all if it has none."""
    axis, rank = call.operation.axis, len(call.inputs[0].shape)
    return tuple(range(rank)) if axis is None else tuple(int(a) % rank for a in np.atleast_1d(axis))


def expanded(array, axis, size):
    """An array with its full size along one axis."""
    return np.broadcast_to(array, (*array.shape[:axis], size, *array.shape[axis + 1 :]))


def counts_along(sizes, tensor, axis):
    """Returns for each position along an axis how many positions take its place.

    The axis is counted with the batch axis.

    Returns:
        An integer array, or None if there are no units along the axis.
    """
    if axis == 0 or sizes.coupling.tensor_labels[tensor].shape[axis - 1] == 1:
        return None
    return sizes.counts_along(tensor, axis - 1)


def groups_left(layer, counts):
    """Returns how many groups of a layer have any units, given the count of each position.

    Raises:
        ValueError: If the groups that are left have different sizes.
    """
    sizes = counts.reshape(layer.groups, -1).sum(axis=1)
    if len(np.unique(sizes[sizes > 0])) > 1:
        raise ValueError(
            "The groups of a layer must keep equally many channels. "
            f"Received: layer={layer.name!r}, channels kept={sizes.tolist()}."
        )
    return int(np.count_nonzero(sizes))


def resized(serialised, counts_by_axis):
    """Returns a serialised array or list with each index along some axes repeated or left out."""
    is_array = isinstance(serialised, dict)
    value = np.asarray(serialised["config"]["value"] if is_array else serialised)
    for axis, counts in counts_by_axis.items():
        value = np.repeat(value, counts, axis=axis)
    return replaced(serialised, value)


def replaced(serialised, value):
    """The serialised form of an array with another value."""
    if isinstance(serialised, dict):
        return {**serialised, "config": {**serialised["config"], "value": value.tolist()}}
    return value.tolist()
