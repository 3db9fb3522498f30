"""Shapes of the outputs of layers whose `compute_output_shape` says others than `call` gives.

Keras believes what a layer says, so the graph of a model may hold shapes that never occur. What
comes after such a layer could not be traced with them. They are found by calling the layer on zeros
of two sizes.
"""

import dataclasses
import functools

import keras
import numpy as np

from tfprune import _keras
from tfprune.coupling import any_size
from tfprune.coupling.calls import Tensor
from tfprune.coupling.rules import has_rule


def with_actual_shapes(call):
    """A call whose outputs have the shapes that its operation gives.

    Args:
        call: A `Call`.

    Returns:
        The call itself, unless a layer of a user's class says other shapes than it gives. Then a
        copy of it with other outputs, which know their shapes for each pair of sizes.
    """
    if call.in_place or has_rule(call.operation) or not _says_shapes(call.operation):
        return call
    shapes = functools.cache(functools.partial(_shapes, call))
    try:
        first, second = (shapes(sizes) for sizes in any_size.SIZES)
    except Exception:  # the layer's own code may fail in any way
        return call
    if len(first) != len(call.outputs) or all(map(_is_said, call.outputs, first)):
        return call
    outputs = []
    for index, (tensor, *pair) in enumerate(zip(call.outputs, first, second, strict=True)):
        if pair[0] is None or _is_said(tensor, pair[0]) or len(pair[0]) != len(pair[1]):
            outputs.append(tensor)
            continue
        shape = tuple(a if a == b else None for a, b in zip(*pair, strict=True))
        sized = functools.partial(_of_output, shapes, index)
        outputs.append(dataclasses.replace(tensor, shape=shape, sized=sized))
    return dataclasses.replace(call, outputs=tuple(outputs))


def _says_shapes(layer):
    """Whether a layer is of a user's class that says the shapes of its outputs by itself."""
    if not isinstance(layer, keras.layers.Layer) or _keras.is_stock(type(layer)):
        return False
    says = ("compute_output_shape", "compute_output_spec")
    return any(getattr(type(layer), name) is not getattr(keras.Layer, name) for name in says)


def _shapes(call, sizes):
    """The shape of each output of a call for a size of the batch and of other dynamic axes."""

    def value(leaf):
        if not isinstance(leaf, Tensor):
            return np.asarray(leaf) if isinstance(leaf, np.ndarray) else leaf
        given = any_size.with_size(leaf, sizes)
        if leaf.dtype == "string":
            return keras.ops.convert_to_tensor(np.full(given.shape, ""))
        return keras.ops.zeros(given.shape, given.dtype)

    args, kwargs = keras.tree.map_structure(value, (list(call.args), dict(call.kwargs)))
    outputs = keras.tree.flatten(_keras.called_in_inference(call.operation, args, kwargs))
    return [None if output is None else tuple(output.shape) for output in outputs]


def _of_output(shapes, index, sizes):
    return shapes(sizes)[index]


def _is_said(tensor, shape):
    """Whether the shape of a `Tensor` is that which its output has for the first sizes."""
    return shape is None or any_size.with_size(tensor, any_size.SIZES[0]).shape == shape
