"""Traces: a model as the list of the calls of its operations, with nested models flattened."""

import keras

from tfprune import _keras
from tfprune.coupling.calls import Call, Tensor, Trace
from tfprune.coupling.composite import is_composite, open_composite


def trace(model):
    """Returns the calls of a model in topological order.

    Nested models are flattened, and composite layers opened: in place of a call of theirs stand the
    calls of the layers inside them.

    Args:
        model: A Functional or built Sequential model. It is not changed.

    Returns:
        A `Trace`.

    Raises:
        ValueError: If the model has no graph, because it is subclassed or not built.

    Example:

    >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, name="d")])
    >>> [(call.operation.name, call.outputs[0].shape) for call in trace(model).calls]
    [('d', (None, 2))]
    """
    graph = _keras.functional(model)
    if graph is None:
        raise ValueError(_no_graph(model))
    known = {id(tensor): _tensor(tensor) for tensor in graph.inputs}
    tracer = _Tracer()
    calls = list(tracer.calls(graph, known, ()))
    return Trace(
        inputs=tuple(known[id(tensor)] for tensor in graph.inputs),
        outputs=tuple(known[id(tensor)] for tensor in graph.outputs),
        calls=tuple(calls),
        entries=tracer.entries,
        siblings=tuple(tracer.siblings),
        names=tracer.names,
    )


def _no_graph(model):
    if isinstance(model, keras.Sequential):
        return (
            "The Sequential model is not built or has no layers, so there is no graph to follow. "
            f"Received: model={model.name!r}. Add `keras.Input(shape)` first and add layers, "
            "or call the model on data once."
        )
    return (
        "The model has no graph of layers that can be read: it must be Functional or Sequential. "
        f"Received: model={getattr(model, 'name', model)!r} ({type(model).__name__}). "
        "Build it as `keras.Model(inputs, model.call(inputs))` with `inputs = keras.Input(...)`."
    )


class _Tracer:
    """Walks the graphs of a model, of the models in it and of its composite layers."""

    def __init__(self):
        self.entries = {}
        self.siblings = []
        self.names = {}

    def calls(self, graph, known, parents):
        """The calls of a functional graph; `known` has the `Tensor` of each symbolic one, by id."""
        for node, index in _keras.nodes(graph):
            yield from self._calls_of(node, node.operation, known, parents, index)

    def _calls_of(self, node, operation, known, parents, index):
        args, kwargs = keras.tree.map_structure(
            lambda leaf: known.get(id(leaf), leaf),
            (list(node.arguments.args), dict(node.arguments.kwargs)),
        )
        inner = _keras.functional(operation)
        inside = open_composite(operation, args, kwargs) if is_composite(operation) else None
        if inner is not None:
            outputs = yield from self._model(operation, inner, args, parents)
        elif inside is not None:
            outputs = yield from self._composite(operation, inside, (args, kwargs), parents)
        else:
            outputs = tuple(_tensor(tensor) for tensor in node.outputs)
            yield Call(operation, tuple(args), kwargs, outputs, parents, index)
        known.update({id(t): ours for t, ours in zip(node.outputs, outputs, strict=True)})

    def _model(self, model, graph, args, parents):
        given = _tensors(args)
        known = {id(tensor): outer for tensor, outer in zip(graph.inputs, given, strict=True)}
        for layer, tensor in zip(_keras.input_layers(graph), given, strict=True):
            self.entries.setdefault(id(layer), []).append(tensor)
        yield from self.calls(graph, known, (*parents, model))
        outputs = tuple(known[id(tensor)] for tensor in graph.outputs)
        if len(outputs) > 1:
            self.siblings.append(outputs)
        return outputs

    def _composite(self, layer, inside, arguments, parents):
        known = dict(zip(map(id, inside.inputs), _tensors(arguments), strict=True))
        prefix = self.names.get(id(layer), layer.name)
        for index, node in enumerate(inside.nodes):
            operation = inside.originals.get(id(node.operation), node.operation)
            self.names.setdefault(id(operation), f"{prefix}_{operation.name}")
            yield from self._calls_of(node, operation, known, (*parents, layer), index)
        return tuple(known[id(tensor)] for tensor in keras.tree.flatten(inside.outputs))


def _tensors(structure):
    return [leaf for leaf in keras.tree.flatten(structure) if isinstance(leaf, Tensor)]


def _tensor(keras_tensor):
    return Tensor(
        tuple(keras_tensor.shape),
        keras.backend.standardize_dtype(keras_tensor.dtype),
        _keras.carries_mask(keras_tensor),
    )
