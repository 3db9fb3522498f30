"""Traces: a model as the list of the calls of its operations, with nested models flattened."""

from dataclasses import dataclass, field

import keras

from tfprune import _keras


@dataclass(frozen=True, eq=False)
class Tensor:
    """A symbolic tensor between calls.

    Attributes:
        shape: The shape with the batch axis, None where dynamic.
        dtype: The dtype.
        has_mask: Whether it carries a mask of time steps. Layers that take a list of tensors see it
            though it is not among their arguments.
    """

    shape: tuple
    dtype: str
    has_mask: bool = False


@dataclass(frozen=True, eq=False)
class Call:
    """One call of one operation (a layer called twice is two calls).

    Attributes:
        operation: The Keras layer or operation.
        args, kwargs: The arguments, with a `Tensor` in place of each symbolic tensor.
        outputs: The tensors it makes.
        parents: The nested models around the call, outermost first.
        node_index: Which of the `inbound_nodes` in the operation's config it is.
        memo: A cache for rules, for the duration of one analysis.
    """

    operation: keras.Operation
    args: tuple
    kwargs: dict
    outputs: tuple
    parents: tuple = ()
    node_index: int = 0
    memo: dict = field(default_factory=dict, repr=False)

    @property
    def path(self):
        """The names of the nested models around the operation, then its own."""
        return tuple(part.name for part in (*self.parents, self.operation))

    @property
    def masks(self):
        """The tensors that mask time steps."""
        leaves = keras.tree.flatten(self.kwargs.get("mask"))
        return tuple(leaf for leaf in leaves if isinstance(leaf, Tensor))

    @property
    def data_kwargs(self):
        """The keyword arguments without `mask`, which is not data."""
        return {name: value for name, value in self.kwargs.items() if name != "mask"}

    @property
    def inputs(self):
        """The tensors among the arguments, in order, but for masks."""
        leaves = keras.tree.flatten([list(self.args), self.data_kwargs])
        return tuple(leaf for leaf in leaves if isinstance(leaf, Tensor))


@dataclass(frozen=True, eq=False)
class Trace:
    """The calls of a model in topological order.

    Attributes:
        inputs, outputs: The tensors of the model.
        calls: The calls.
        entries: For the input layers of nested models, by id, the tensors that are given to them,
            one for each call of the model.
        siblings: The outputs of each call of a nested model that has several.
    """

    inputs: tuple
    outputs: tuple
    calls: tuple = field(repr=False)
    entries: dict = field(repr=False)
    siblings: tuple = field(repr=False)


def trace(model):
    """Returns the calls of a model in topological order.

    Args:
        model: A Functional or built Sequential model.

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
    entries, siblings = {}, []
    calls = list(_calls(graph, known, (), entries, siblings))
    return Trace(
        inputs=tuple(known[id(tensor)] for tensor in graph.inputs),
        outputs=tuple(known[id(tensor)] for tensor in graph.outputs),
        calls=tuple(calls),
        entries=entries,
        siblings=tuple(siblings),
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


def _calls(graph, known, parents, entries, siblings):
    for node, index in _keras.nodes(graph):
        args, kwargs = keras.tree.map_structure(
            lambda leaf: known.get(id(leaf), leaf),
            (list(node.arguments.args), dict(node.arguments.kwargs)),
        )
        inner = _keras.functional(node.operation)
        if inner is None:
            outputs = tuple(_tensor(tensor) for tensor in node.outputs)
            yield Call(node.operation, tuple(args), kwargs, outputs, parents, index)
        else:
            given = [leaf for leaf in keras.tree.flatten(args) if isinstance(leaf, Tensor)]
            inner_known = {
                id(tensor): outer for tensor, outer in zip(inner.inputs, given, strict=True)
            }
            for layer, tensor in zip(_keras.input_layers(inner), given, strict=True):
                entries.setdefault(id(layer), []).append(tensor)
            yield from _calls(inner, inner_known, (*parents, node.operation), entries, siblings)
            outputs = tuple(inner_known[id(tensor)] for tensor in inner.outputs)
            if len(outputs) > 1:
                siblings.append(outputs)
        known.update({id(t): ours for t, ours in zip(node.outputs, outputs, strict=True)})


def _tensor(keras_tensor):
    return Tensor(
        tuple(keras_tensor.shape),
        keras.backend.standardize_dtype(keras_tensor.dtype),
        _keras.carries_mask(keras_tensor),
    )
