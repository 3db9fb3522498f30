"""Composite layers, made of layers: the graph of what their `call` does.

The `call` of a copy of the layer is run on symbolic tensors, so no layer's computation is written a
second time here, and the layer itself is not touched.
"""

from dataclasses import dataclass

import keras

from tfprune import _keras
from tfprune.coupling.calls import Tensor
from tfprune.coupling.rules import has_rule


@dataclass(frozen=True, eq=False)
class Inside:
    """The graph inside a composite layer, for one call of it.

    Attributes:
        inputs: The symbolic tensors that stand for those among the arguments, in order.
        outputs: What `call` returned: a structure of symbolic tensors.
        nodes: The calls inside, in an order in which they can run.
        originals: For each operation inside that is a layer of the copy, by id, the layer.
    """

    inputs: list
    outputs: object
    nodes: list
    originals: dict


def is_composite(operation):
    """Whether an operation is a custom layer made of layers, without a rule."""
    is_layer = isinstance(operation, keras.layers.Layer) and _keras.functional(operation) is None
    if not is_layer or has_rule(operation) or len(_keras.all_layers(operation)) == 1:
        return False
    return not _keras.is_stock(type(operation))


def open_composite(layer, args, kwargs):
    """Runs the `call` of a copy of a composite layer on symbolic tensors.

    Args:
        layer: The layer. It is not changed.
        args, kwargs: The arguments of the call, with symbolic tensors, or a `Tensor` in place of
            each.

    Returns:
        An `Inside`; None if the call fails on symbolic tensors, or uses weights other than those of
        the layers inside.
    """
    copies = _keras.copied_objects(layer)
    originals = {id(copy): original for original, copy in copies}
    copy = copies[0][1]
    args, kwargs = keras.tree.map_structure(_placeholder, (list(args), dict(kwargs)))
    inputs = symbolic((args, kwargs))
    kwargs.pop("training", None)
    given = keras.tree.map_structure(lambda leaf: _cast(leaf, layer), (args, kwargs))
    try:
        outputs = copy.call(*given[0], **given[1])
    except Exception:  # the layer's own code may fail on symbolic tensors in any way
        return None
    flat_outputs = keras.tree.flatten(outputs)
    if not flat_outputs or not all(map(_keras.is_symbolic, flat_outputs)):
        return None
    nodes = _keras.nodes_between(inputs, flat_outputs)
    operations = [] if nodes is None else [node.operation for node in nodes]
    if nodes is None or not _covers(operations, copy) or any(map(_has_unknown_size, operations)):
        return None
    return Inside(inputs, outputs, nodes, originals)


def symbolic(structure):
    """The symbolic tensors among the leaves of a structure."""
    return [leaf for leaf in keras.tree.flatten(structure) if _keras.is_symbolic(leaf)]


def _placeholder(leaf):
    is_tensor = _keras.is_symbolic(leaf) or isinstance(leaf, Tensor)
    return keras.Input(batch_shape=leaf.shape, dtype=leaf.dtype) if is_tensor else leaf


def _cast(tensor, layer):
    """Casts an input of a layer as Keras does, to the dtype in which the layer computes."""
    if not _keras.is_symbolic(tensor) or not keras.backend.is_float_dtype(tensor.dtype):
        return tensor
    if layer.autocast and tensor.dtype != layer.compute_dtype:
        return keras.ops.cast(tensor, layer.compute_dtype)
    return tensor


def _has_unknown_size(operation):
    """Whether a dynamic size, None while it is traced, went into an argument of an operation."""
    if isinstance(operation, keras.layers.Layer):
        return False
    shapes = [value for value in vars(operation).values() if isinstance(value, (list, tuple))]
    return any(None in shape and any(isinstance(n, int) for n in shape) for shape in shapes)


def _covers(operations, layer):
    """Whether all weights of a layer belong to layers of a graph."""
    inner = [o for o in operations if isinstance(o, keras.layers.Layer)]
    covered = {id(variable) for sub_layer in inner for variable in sub_layer.weights}
    return covered.issuperset(map(id, layer.weights))
