"""A graph for any batch size and length, out of two that were traced with sizes that are numbers.

Code that computes with sizes, such as `ops.reshape(x, (ops.shape(x)[0], -1, heads, width))`, cannot
be run on symbolic tensors of unknown sizes, or gives calls that cannot be run. Traced twice with
different sizes, what depends on a size differs, and what does not is the same. Sizes to reshape to
that differ are left open; any other call that depends on a size is refused.
"""

import math

import keras
import numpy as np

from tfprune import _keras

SIZES = (2, 12), (3, 20)
"""The sizes that are traced with: of the batch, and of any other dynamic axis."""

STATIC_SIZES = (2, 12), (2, 4), (64, 12)
"""The sizes that a layer which stays what it is is traced with.

Fewer steps where it takes no more, and more examples where those of a batch are parts of images.
"""

OTHER_SIZES = (3, 6)
"""Sizes that such a layer is run with too, when it has become smaller."""

_MOST_DEMANDED = 6
"""How many sizes are tried that a layer may demand."""

_CHECKED = (5, 16)


class DependsOnSizeError(ValueError):
    """A call depends on a size in a way that cannot be left open; the message says which."""


def static_sizes(layer, tensors):
    """The sizes to trace a layer with that stays what it is, in the order in which they are tried.

    Args:
        layer: The layer.
        tensors: The tensors that it is called on.

    Returns:
        A list of pairs of the size of the batch and of any other dynamic axis: `STATIC_SIZES`, then
        those that the layer may demand.
    """
    if not any(None in tensor.shape[1:] for tensor in tensors):
        return list(STATIC_SIZES)
    found = [(STATIC_SIZES[0][0], size) for size in demanded_sizes(layer)]
    return [*STATIC_SIZES, *(sizes for sizes in found if sizes not in STATIC_SIZES)]


def demanded_sizes(layer):
    """Sizes of dynamic axes that a layer may demand, at most six.

    They are those of the inputs of models inside, and those of its weights, as where positions are
    added to each step.
    """
    parts = _keras.all_layers(layer)
    graphs = [graph for graph in map(_keras.functional, parts) if graph is not None]
    given = [tensor.shape[1:] for graph in graphs for tensor in graph.inputs]
    own = [weight.shape for part in parts for weight in part.weights]
    found = [size for shape in (*given, *own) for size in shape if size is not None and size > 1]
    return list(dict.fromkeys(found))[:_MOST_DEMANDED]


def is_runnable(nodes):
    """Whether no call has an unknown size among its arguments."""
    return not any(
        any(size is None for size in value) and any(isinstance(size, int) for size in value)
        for node in nodes
        if not isinstance(node.operation, keras.layers.Layer)
        for value in vars(node.operation).values()
        if isinstance(value, (list, tuple))
    )


def with_size(tensor, sizes):
    """A symbolic tensor like another, with numbers for what is None in its shape."""
    if getattr(tensor, "sized", None) is not None:
        return keras.KerasTensor(tensor.sized(sizes), tensor.dtype)
    batch, other = sizes
    shape = [
        size if size is not None else (other if axis else batch)
        for axis, size in enumerate(tensor.shape)
    ]
    return keras.KerasTensor(tuple(shape), tensor.dtype)


def merged(first, second, inputs):
    """Runs the calls of two traces with different sizes again, on tensors of unknown sizes.

    Args:
        first, second: Two `Inside` of the same layer.
        inputs: The symbolic tensors of unknown sizes.

    Returns:
        The structure of outputs.

    Raises:
        DependsOnSizeError: If the two differ by more than the sizes to reshape to.
    """
    pairs = dict(zip(map(id, first.inputs), map(id, second.inputs), strict=True))
    known = dict(zip(map(id, first.inputs), inputs, strict=True))
    if len(first.nodes) != len(second.nodes):
        raise DependsOnSizeError("it makes other calls for other sizes")
    for ours, theirs in zip(first.nodes, second.nodes, strict=True):
        args, kwargs = keras.tree.pack_sequence_as(
            _arguments(ours), _merged_leaves(ours, theirs, pairs, known)
        )
        try:
            operation = _operation(ours, theirs, args)
        except DependsOnSizeError as error:
            raise DependsOnSizeError(f"{_keras.line_of(ours)}{error}") from None
        outputs = keras.tree.flatten(operation(*args, **kwargs))
        pairs.update(zip(map(id, ours.outputs), map(id, theirs.outputs), strict=True))
        known.update(zip(map(id, ours.outputs), outputs, strict=True))
    return keras.tree.map_structure(lambda leaf: known[id(leaf)], first.outputs)


def _arguments(node):
    return list(node.arguments.args), dict(node.arguments.kwargs)


def _merged_leaves(ours, theirs, pairs, known):
    """The arguments of a call of unknown sizes, as a flat list."""
    leaves = [keras.tree.flatten(_arguments(node)) for node in (ours, theirs)]
    if type(ours.operation) is not type(theirs.operation) or len(leaves[0]) != len(leaves[1]):
        raise DependsOnSizeError(f"{_keras.line_of(ours)}it makes other calls for other sizes")
    found = []
    for a, b in zip(*leaves, strict=True):
        is_same = pairs.get(id(a)) == id(b) if _keras.is_symbolic(a) else is_equal(a, b)
        if is_same:
            found.append(known.get(id(a), a))
        elif _is_same_for_each_example(a, b):
            found.append(a[:1])
        else:
            name = f"{_keras.line_of(ours)}its `{type(ours.operation).__name__}`"
            raise DependsOnSizeError(f"{name} takes what depends on the size of an input")
    return found


def _is_same_for_each_example(a, b):
    """Whether two constants hold one array as many times as there are examples."""
    if not (keras.ops.is_tensor(a) and keras.ops.is_tensor(b)) or _keras.is_symbolic(a):
        return False
    a, b = keras.ops.convert_to_numpy(a), keras.ops.convert_to_numpy(b)
    sizes = [array.shape[:1] for array in (a, b)]
    is_batch = sizes == [(batch,) for batch, _ in SIZES] and a.shape[1:] == b.shape[1:]
    return is_batch and bool((a == a[:1]).all() and (b == a[:1]).all())


def is_equal(a, b):
    """Whether two values are the same, arrays and tensors by what is in them."""
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(is_equal, a, b))
    if type(a) is not type(b):
        return False
    return a is b or bool(np.array_equal(np.asarray(a), np.asarray(b)))


def _operation(first, second, args):
    """The operation to call: that of the first of two calls, or one that leaves sizes open."""
    ours, theirs = first.operation, second.operation
    if ours is theirs:
        return ours
    own = [
        {k: v for k, v in vars(each).items() if not k.startswith("_") and k != "name"}
        for each in (ours, theirs)
    ]
    if isinstance(ours, keras.layers.Layer):  # made in `call`, so nothing can be said about it
        raise DependsOnSizeError(f"it makes the layer {ours.name!r} in its `call`")
    different = [key for key in own[0] if not is_equal(own[0][key], own[1].get(key))]
    if not different:
        return ours
    if different != ["newshape"]:
        raise DependsOnSizeError(f"its `{type(ours).__name__}` depends on the size of an input")
    made = first.outputs[0].shape, second.outputs[0].shape  # what -1 stands for among them
    shape = [a if a == b else None for a, b in zip(*made, strict=True)]
    return _reshape(ours, shape, args[0].shape)


def _reshape(operation, shape, before):
    """A reshape with the sizes that are None left open."""
    first, *rest = shape
    if [first, *rest].count(None) == 1:
        return type(operation)(
            tuple(-1 if size is None else size for size in (first, *rest)), name=operation.name
        )
    if first is None and rest.count(None) == 1 and before[0] is None:
        if None not in before[1:]:
            others = math.prod(size for size in rest if size is not None)
            number = math.prod(before[1:]) // max(others, 1)
            rest = [number if size is None else size for size in rest]
            return type(operation)((-1, *rest), name=operation.name)
        rest = [-1 if size is None else size for size in rest]
        return keras.layers.Reshape(rest, name=operation.name)  # it keeps the batch
    raise DependsOnSizeError(
        f"its `{type(operation).__name__}` reshapes to several sizes that are not known"
    )


def check(outputs_of, inputs, arguments, inside):
    """Checks on random inputs that a graph computes what a `call` does.

    Args:
        outputs_of: Function of the arguments of the `call`.
        inputs: The symbolic tensors among the arguments.
        arguments: The positional and the keyword arguments.
        inside: The `Inside` with the graph.

    Raises:
        DependsOnSizeError: If it does not.
    """
    generator, values = np.random.default_rng(0), {}
    for tensor, inner in zip(inputs, inside.inputs, strict=True):
        shape = with_size(tensor, _CHECKED).shape
        is_float = keras.backend.is_float_dtype(tensor.dtype)
        value = generator.normal(size=shape) if is_float else generator.integers(0, 2, shape)
        value = keras.ops.convert_to_tensor(value, tensor.dtype)
        values.update({id(tensor): value, id(inner): value})
    given = keras.tree.map_structure(lambda leaf: values.get(id(leaf), leaf), arguments)
    expected = keras.tree.flatten(outputs_of(*given))
    for node in inside.nodes:
        args, kwargs = keras.tree.map_structure(
            lambda leaf: values.get(id(leaf), leaf), _arguments(node)
        )
        found = keras.tree.flatten(node.operation(*args, **kwargs))
        values.update(zip(map(id, node.outputs), found, strict=True))
    found = [values[id(tensor)] for tensor in keras.tree.flatten(inside.outputs)]
    for pair in zip(found, expected, strict=True):
        ours, theirs = (np.asarray(keras.ops.cast(tensor, "float64")) for tensor in pair)
        if ours.shape != theirs.shape or not is_near(ours, theirs, 1e-2, 1e-3):
            raise DependsOnSizeError("it computes something else for other sizes")


def is_near(found, wanted, relative, absolute):
    """Whether outputs are equal but for rounding, which is as large as their largest makes it.

    Args:
        found, wanted: Arrays of one shape.
        relative, absolute: The tolerances as in `numpy.allclose`, for outputs of at most 1.
    """
    largest = max(1.0, np.abs(wanted).max(initial=0))
    return np.allclose(found, wanted, relative, absolute * largest)
