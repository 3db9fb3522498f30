"""Inlining: a composite layer, made of layers, is replaced by the graph of its `call`.

The `call` of a copy is run on symbolic tensors, so no layer's computation is written a second time
here. A layer with weights of its own, outside of its sub-layers, needs a rule instead.
"""

import keras

from tfprune import _keras
from tfprune.coupling.composite import is_composite, open_composite, symbolic
from tfprune.rebuild.copying import copy_model


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
    copy = copy_model(model).model
    inliner = _Inliner(copy)
    flat = inliner.run()
    if not inliner.renamed:
        return model
    if copy.compiled:
        flat.compile(**{**_keras.compile_arguments(copy), "optimizer": copy.optimizer})
    return flat


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
        self.owners = {operation.name: id(operation) for operation in self.graph.operations}
        self.renamed = set()

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
        return self._along([node for node, _ in _keras.nodes(graph)], known, graph.outputs, {})

    def _along(self, nodes, known, outputs, originals):
        """Runs calls again, of the originals of copied layers; returns the outputs."""
        for node in nodes:
            args, kwargs = keras.tree.map_structure(
                lambda leaf: known.get(id(leaf), leaf),
                (list(node.arguments.args), dict(node.arguments.kwargs)),
            )
            operation = originals.get(id(node.operation), node.operation)
            found = keras.tree.flatten(self._call(operation, args, kwargs))
            known.update({id(old): new for old, new in zip(node.outputs, found, strict=True)})
        return [known[id(tensor)] for tensor in outputs]

    def _call(self, operation, args, kwargs):
        inner = _keras.functional(operation)
        if inner is not None and any(map(is_composite, _graph_operations(operation))):
            for each in _graph_operations(operation):
                if self.owners.setdefault(each.name, id(each)) != id(each):
                    self._rename(each, f"{operation.name}_{each.name}")
            return self._through(inner, symbolic(args))
        outputs = self._inline(operation, args, kwargs) if is_composite(operation) else None
        return operation(*args, **kwargs) if outputs is None else outputs

    def _inline(self, layer, args, kwargs):
        """Returns the outputs of a layer as a graph of its sub-layers; None if that fails."""
        inside = open_composite(layer, args, kwargs)
        if inside is None:
            return None
        if id(layer) not in self.renamed:
            self.renamed.add(id(layer))
            for operation in {id(node.operation): node.operation for node in inside.nodes}.values():
                operation = inside.originals.get(id(operation), operation)
                self._rename(operation, f"{layer.name}_{operation.name}")
        given, outputs = symbolic((args, kwargs)), keras.tree.flatten(inside.outputs)
        known = {id(inner): outer for inner, outer in zip(inside.inputs, given, strict=True)}
        return self._along(inside.nodes, known, outputs, inside.originals)

    def _rename(self, operation, wanted):
        """Names an operation as wanted, with a number behind where the name is taken."""
        name, number = wanted, 0
        while self.owners.setdefault(name, id(operation)) != id(operation):
            number += 1
            name = f"{wanted}_{number}"
        operation.name = name
