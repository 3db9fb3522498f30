"""Label arrays with the batch axis, in a form that can be cut.

What is removed from a tensor must leave a block of it: all positions at some indices of one axis.
So the labels of every tensor vary along one axis at most; where an operation puts units on several,
they are tied to one another until that holds. The batch axis is an axis without units.
"""

import numpy as np


def with_batch_axis(tensor, array):
    """The array of a tensor with its first axis too, along which nothing changes."""
    return array[None] if tensor.shape else array


def with_batch_axes(call, inputs):
    """The arrays of the inputs of a call, each with its batch axis."""
    return list(map(with_batch_axis, call.inputs, inputs))


def without_batch_axis(tensor, array):
    """The opposite of `with_batch_axis`, or None if the array changes along the first axis."""
    if not tensor.shape:
        return array
    return array[0] if array.shape[0] == 1 else None


def shrunk(array):
    """Axes along which nothing changes get size 1."""
    for axis in range(array.ndim):
        first = array.take([0], axis=axis)
        if (array == first).all():
            array = first
    return array


def block(labels, array, reason, concatenation_axis=None):
    """Ties labels until they vary along one axis: the last, or one along which nothing is joined.

    Args:
        labels: The `Labels` to note ties in.
        array: The label array of an output.
        reason: Why what is tied to a fixed position cannot go.
        concatenation_axis: An axis along which other units follow one another.

    Returns:
        The label array with size 1 along the other axes.
    """
    array = shrunk(array)
    varying = [axis for axis, size in enumerate(array.shape) if size != 1]
    if len(varying) < 2:
        return array
    kept = [axis for axis in varying if axis != concatenation_axis][-1]
    first = array[tuple(slice(None) if a == kept else slice(1) for a in range(array.ndim))]
    labels.unite(array, first, reason)
    return first


def fit(constants, shape):
    """Constants for labels of a shape: not known where they change and the labels do not."""
    for axis, size in enumerate(shape):
        if size == 1 and constants.shape[axis] != 1:
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
    """For each position along an axis, counted with the batch axis, how many stand in its place.

    Returns:
        An integer array, or None where there are no units and all stays.
    """
    if axis == 0 or sizes.coupling.tensor_labels[tensor].shape[axis - 1] == 1:
        return None
    return sizes.counts_along(tensor, axis - 1)


def groups_left(layer, counts):
    """How many groups of a layer have any positions left, given how many stand for each.

    Raises:
        ValueError: If these would not be equally large.
    """
    sizes = counts.reshape(layer.groups, -1).sum(axis=1)
    if len(np.unique(sizes[sizes > 0])) > 1:
        raise ValueError(
            "The groups of a layer must keep equally many channels. "
            f"Received: layer={layer.name!r}, channels kept={sizes.tolist()}."
        )
    return int(np.count_nonzero(sizes))


def resized(serialised, counts_by_axis):
    """A serialised array, or a list of numbers, each index along some axes repeated or left out."""
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
