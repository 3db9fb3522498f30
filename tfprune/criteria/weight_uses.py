"""The products of inputs with a weight, found in the graph of TensorFlow that uses it.

So it does not matter which layer computes them, or how: a kernel of Keras, that of a projection
inside an attention layer, or a weight of a user's class that its `call` multiplies with something.
"""

import numpy as np
import tensorflow as tf

from tfprune import _keras
from tfprune.criteria.matrix_products import NoProductError, moved, product

_PASSING = ("Identity", "Cast", "StopGradient", "PreventGradient", "CheckNumerics", "Snapshot")
"""Operations whose output has the elements of their input, in the same places."""

_IGNORED = ("Shape", "ShapeN", "Rank", "Size", "ZerosLike", "OnesLike")
"""Operations that take nothing of the values."""


def products_of(tensor):
    """The products that a weight is in, in the order of the graph.

    Args:
        tensor: The tensor that stands for the weight in the graph which is being traced.

    Returns:
        A list of `Product`s.

    Raises:
        NoProductError: If the weight is used in any other way.
    """
    found = []
    _collect(tensor, (), lambda operand: operand, found)
    if not found:
        raise NoProductError(
            "the model does not use it on this data, or only inside a `tf.function`"
        )
    return found


def _collect(tensor, steps, resolve, found):
    for operation in tensor.consumers():
        for position, operand in enumerate(operation.inputs):
            if operand is tensor and operation.type not in _IGNORED:
                _follow(operation, position, steps, resolve, found)


def _follow(operation, position, steps, resolve, found):
    graph = _keras.called_graph(operation)
    if graph is not None:

        def resolve_inside(operand):
            places = [i for i, inner in enumerate(graph.inputs) if inner is operand]
            if places:
                return resolve(operation.inputs[places[0]])
            inside = operand.op
            if inside.type == "ExpandDims":  # as `Conv1D` does
                return tf.expand_dims(resolve_inside(inside.inputs[0]), _static(inside.inputs[1]))
            raise NoProductError("it is used inside a `tf.function`, on what that computes")

        _collect(graph.inputs[position], steps, resolve_inside, found)
    elif operation.type in _PASSING:
        _collect(operation.outputs[0], steps, resolve, found)
    elif operation.type == "IdentityN":
        _collect(operation.outputs[position], steps, resolve, found)
    elif operation.type in _MOVING and position == _MOVING[operation.type][0]:
        for output, step in _MOVING[operation.type][1](operation):
            if output.consumers():
                _collect(output, (*steps, step), resolve, found)
    else:
        found.append(product(operation, position, steps, resolve))


def _static(tensor):
    value = tf.get_static_value(tensor)
    if value is None:
        raise NoProductError("it is moved by numbers that depend on the data")
    return value


def _reshaped(operation):
    (output,) = operation.outputs
    yield output, ("reshape", tuple(output.shape.as_list()))


def _transposed(operation):
    axes = tuple(map(int, _static(operation.inputs[1])))
    yield operation.outputs[0], ("transpose", axes)


def _split(operation):
    """Equal pieces, or pieces of given sizes."""
    axis = int(_static(operation.inputs[0 if operation.type == "Split" else 2]))
    rank, start = len(operation.outputs[0].shape), 0
    for output in operation.outputs:
        size = output.shape[axis]
        yield output, ("index", _along(axis % rank, (start, start + size)))
        start += size


def _unstacked(operation):
    axis = operation.get_attr("axis") % len(operation.inputs[0].shape)
    for place, output in enumerate(operation.outputs):
        yield output, ("index", _along(axis, place))


def _along(axis, index):
    return (*[(None,)] * axis, index)


def _cut(operation):
    begin, size = (_static(operand) for operand in operation.inputs[1:])
    ends = [None if n < 0 else int(b + n) for b, n in zip(begin, size, strict=True)]
    index = tuple((int(b), end) for b, end in zip(begin, ends, strict=True))
    yield operation.outputs[0], ("index", index)


def _indexed(operation):
    """An index of NumPy's kind, as `weight[:, 2]`."""
    begin, end, strides = (_static(operand) for operand in operation.inputs[1:])

    def is_set(name, place):
        return bool(operation.get_attr(name) >> place & 1)

    index = []
    for place, (first, last, stride) in enumerate(zip(begin, end, strides, strict=True)):
        if is_set("ellipsis_mask", place):
            index.append(...)
        elif is_set("new_axis_mask", place):
            index.append(None)
        elif is_set("shrink_axis_mask", place):
            index.append(int(first))
        else:
            first = None if is_set("begin_mask", place) else int(first)
            last = None if is_set("end_mask", place) else int(last)
            index.append((first, last, int(stride)))
    yield operation.outputs[0], ("index", tuple(index))


_MOVING = {
    "Reshape": (0, _reshaped),
    "ExpandDims": (0, _reshaped),
    "Squeeze": (0, _reshaped),
    "Transpose": (0, _transposed),
    "Split": (1, _split),
    "SplitV": (0, _split),
    "Unpack": (0, _unstacked),
    "Slice": (0, _cut),
    "StridedSlice": (0, _indexed),
}
"""Operations that move elements: which input they move, and the step to each output."""


def matrices_of(products, shape):
    """The matrices that a weight consists of, each with the products it is in.

    Args:
        products: `Product`s of one weight.
        shape: The shape of the weight.

    Returns:
        A dict from the steps to a matrix, see `moved`, to a list of products.

    Raises:
        NoProductError: If elements are in no product, or in two in different ways.
    """
    found = {}
    for each in products:
        found.setdefault(each.steps, []).append(each)
    uses = np.zeros(shape, np.uint8)
    for steps in found:
        write(uses, steps, moved(uses, steps) + 1)
    if (uses == 0).any():
        raise NoProductError("some of its elements are in no product")
    if (uses > 1).any():
        raise NoProductError("it is used in several products in different ways")
    return found


def write(array, steps, matrix):
    """Writes a matrix into the array of which `moved(array, steps)` is the matrix form."""
    view = moved(array, steps)
    if np.may_share_memory(view, array):
        view[...] = matrix
    else:  # the steps made a copy
        array.reshape(-1)[moved(np.arange(array.size).reshape(array.shape), steps)] = matrix
