"""Inlining: a composite layer, made of layers, is replaced by the graph of its `call`.

The `call` of a copy is run on symbolic tensors, so no layer's computation is written a second time
here. A layer with weights of its own, outside of its sub-layers, needs a rule instead.
"""

import keras

from tfprune import _keras
from tfprune.coupling.rules import has_rule
from tfprune.layers import Masked
from tfprune.rebuild import convert


def inlined(model):
    """Returns the model with its composite layers inlined: replaced by the layers inside them.

    A composite layer is one without a rule that has layers inside, such as a transformer block
    written as a `keras.layers.Layer`. Its `call` is run on symbolic tensors. If that works, and
    uses no weights but those of its sub-layers, the graph that results replaces it. The sub-layers
    are named after it: `block_attention` for `attention` in `block`.

    Args:
        model: A Functional or built Sequential model. It is not changed.

    Returns:
        A new Functional model with the same weights, compile state and slots; `model` itself if
        nothing in it can be inlined.

    Example:

    >>> class Block(keras.layers.Layer):
    ...     def __init__(self, **kwargs):
    ...         super().__init__(**kwargs)
    ...         self.wide = keras.layers.Dense(8, activation="relu", name="wide")
    ...         self.narrow = keras.layers.Dense(4, name="narrow")
    ...     def build(self, shape):
    ...         self.wide.build(shape)
    ...         self.narrow.build((*shape[:-1], 8))
    ...     def call(self, inputs):
    ...         return inputs + self.narrow(self.wide(inputs))
    >>> model = keras.Sequential([keras.Input((4,)), Block(name="block")])
    >>> [layer.name for layer in inlined(model).layers][1:]
    ['block_wide', 'block_narrow']
    """
    if _keras.functional(model) is None or not any(map(is_composite, _graph_operations(model))):
        return model
    copy = convert.rebuilt(model, lambda config, _: config)
    convert.copy_weights(model, copy)
    inliner = _Inliner(copy)
    flat = inliner.run()
    if not inliner.has_inlined:
        return model
    convert.copy_compile_state(model, copy)
    if copy.compiled:
        flat.compile(**{**_keras.compile_arguments(copy), "optimizer": copy.optimizer})
    return flat


def is_composite(operation):
    """Whether an operation is a custom layer made of layers, without a rule."""
    is_layer = isinstance(operation, keras.layers.Layer) and _keras.functional(operation) is None
    if not is_layer or has_rule(operation) or len(_keras.all_layers(operation)) == 1:
        return False
    is_stock = type(operation).__module__.split(".")[0] == "keras"
    return not is_stock and not isinstance(operation, Masked)


def _graph_operations(model):
    for operation in _keras.operations(model):
        if _keras.functional(operation) is not None:
            yield from _graph_operations(operation)
        else:
            yield operation


class _Inliner:
    """Calls the operations of a model again, and in place of composite layers those inside them."""

    def __init__(self, model):
        self.model = model
        self.graph = _keras.functional(model)
        self.names = {operation.name for operation in _graph_operations(model)}
        self.has_inlined = False

    def run(self):
        """Returns the flat model, made of the layers of the given one."""
        inputs = [
            keras.Input(batch_shape=tensor.shape, dtype=tensor.dtype, name=layer.name)
            for tensor, layer in zip(
                self.graph.inputs, _keras.input_layers(self.graph), strict=True
            )
        ]
        outputs = self._through(self.graph, inputs)
        return keras.Model(
            keras.tree.pack_sequence_as(_keras.input_structure(self.model), inputs),
            keras.tree.pack_sequence_as(_keras.output_structure(self.model), outputs),
            name=self.model.name,
        )

    def _through(self, graph, inputs):
        known = {id(old): new for old, new in zip(graph.inputs, inputs, strict=True)}
        for node, _ in _keras.nodes(graph):
            args, kwargs = keras.tree.map_structure(
                lambda leaf: known.get(id(leaf), leaf),
                (list(node.arguments.args), dict(node.arguments.kwargs)),
            )
            outputs = keras.tree.flatten(self._call(node.operation, args, kwargs))
            known.update({id(old): new for old, new in zip(node.outputs, outputs, strict=True)})
        return [known[id(tensor)] for tensor in graph.outputs]

    def _call(self, operation, args, kwargs):
        inner = _keras.functional(operation)
        if inner is not None and any(map(is_composite, _graph_operations(operation))):
            return self._through(inner, _symbolic(args))
        outputs = self._inline(operation, args, kwargs) if is_composite(operation) else None
        return operation(*args, **kwargs) if outputs is None else outputs

    def _inline(self, layer, args, kwargs):
        """Returns the outputs of a layer as a graph of its sub-layers; None if that fails."""
        fresh = keras.tree.map_structure(_placeholder, (args, kwargs))
        fresh[1].pop("training", None)
        try:
            outputs = layer.call(*fresh[0], **fresh[1])
        except Exception:  # the layer's own code may fail on symbolic tensors in any way
            return None
        flat_outputs = keras.tree.flatten(outputs)
        if not flat_outputs or not all(map(_keras.is_symbolic, flat_outputs)):
            return None
        placeholders = _symbolic(fresh)
        operations = _keras.operations_between(placeholders, flat_outputs)
        if operations is None or not _covers(operations, layer):
            return None
        self._rename(layer, operations)
        self.has_inlined = True
        inside = keras.Model(placeholders, flat_outputs)
        given = [_cast(tensor, layer) for tensor in _symbolic((args, kwargs))]
        return self._through(inside, given)

    def _rename(self, layer, operations):
        for operation in operations:
            wanted = f"{layer.name}_{operation.name}"
            name, number = wanted, 0
            while name in self.names:
                number += 1
                name = f"{wanted}_{number}"
            self.names.add(name)
            operation.name = name


def _symbolic(structure):
    return [leaf for leaf in keras.tree.flatten(structure) if _keras.is_symbolic(leaf)]


def _placeholder(leaf):
    if _keras.is_symbolic(leaf):
        return keras.Input(batch_shape=leaf.shape, dtype=leaf.dtype)
    return leaf


def _cast(tensor, layer):
    """Casts an input of a layer as Keras does, to the dtype in which the layer computes."""
    is_float = keras.backend.is_float_dtype(tensor.dtype)
    if is_float and layer.autocast and tensor.dtype != layer.compute_dtype:
        return keras.ops.cast(tensor, layer.compute_dtype)
    return tensor


def _covers(operations, layer):
    """Whether all weights of a layer belong to layers of a graph."""
    inner = [o for o in operations if isinstance(o, keras.layers.Layer)]
    covered = {id(variable) for sub_layer in inner for variable in sub_layer.weights}
    return covered.issuperset(map(id, layer.weights))
