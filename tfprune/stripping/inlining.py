"""Inlining: a composite layer or a subclassed model is replaced by the graph of its `call`.

The `call` of a copy is run on symbolic tensors, so no layer's computation is written a second time
here. A layer with weights of its own, outside of its sub-layers, needs a rule instead.
"""

import warnings

import keras

from tfprune import _keras
from tfprune.coupling.composite import filled, trace_composite
from tfprune.coupling.layer_runs import NotTracedError, is_composite, symbolic
from tfprune.coupling.model_inputs import call_arguments, names_in
from tfprune.coupling.model_trace import trace
from tfprune.coupling.time_steps import at_each_step, innermost
from tfprune.rebuild.convert import graph_operations
from tfprune.rebuild.copied_state import take_class
from tfprune.rebuild.copying import copy_model


def inlined(model, wholly=False, keep=()):
    """Returns the model with its composite layers inlined: replaced by the layers inside them.

    A composite layer is one without a rule that has layers inside, such as a transformer block
    written as a `keras.layers.Layer`. Its `call` is run on symbolic tensors. If that works, uses
    no weights but those of its sub-layers, and does the same in training but for what these do
    themselves, the graph that results replaces it. The sub-layers
    are named after it: `block_attention` for `attention` in `block`.

    Of a subclassed model the graph of its `call` in inference mode is returned, of the layers that
    it calls. It takes the first argument of `call`, or a dict of all whose shapes are known
    (`tfprune.coupling.model_inputs.call_arguments`). It is compiled if the model trains with the
    `train_step` of Keras.

    Args:
        model: Any Keras model that is built. It is not changed.
        wholly: Whether a composite layer that cannot be inlined is refused.
        keep: The names of composite layers that stay what they are.

    Returns:
        A new Functional model with the same weights, compile state and slots; `model` itself if
        nothing in it can be inlined.

    Raises:
        ValueError: If the model is subclassed and its `call` cannot be traced, or, with `wholly`,
            if something cannot be inlined.

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
    has_graph = _keras.functional(model) is not None
    if wholly:
        _refuse_what_stays(model)
    if has_graph and not any(
        is_composite(o) and o.name not in keep for o in graph_operations(model)
    ):
        return model
    arguments = None if has_graph else call_arguments(model)
    if not has_graph and id(model) in trace(model).in_place:
        return model  # it can only stay what it is
    flat = _inlined(copy_model(model).model, arguments, lambda each: each.name not in keep)
    return model if flat is None else flat


def with_inlined(model, layers, ends=None):
    """Returns the model with some of its composite layers inlined, and none besides.

    Args:
        model: Any Keras model that is built; the `call` of a subclassed one is inlined too. It is
            not changed.
        layers: The layers.
        ends: A dict that gets for the name of each of them that is inlined the names of the
            operations that make its first input, and its first output.

    Returns:
        A new Functional model as of `inlined`, and a dict from its layers to those of `model`.
    """
    copy = copy_model(model)
    selected = {id(copy.layers[layer]) for layer in layers}
    arguments = None if _keras.functional(model) is not None else call_arguments(copy.model)
    flat = _inlined(copy.model, arguments, lambda each: id(each) in selected, ends)
    return copy.model if flat is None else flat, {new: old for old, new in copy.layers.items()}


def _inlined(copy, arguments, takes, ends=None):
    """A copy of a model inlined; None if nothing in its graph is inlined."""
    has_graph, inliner = arguments is None, _Inliner(copy, takes)
    flat = inliner.run() if has_graph else inliner.run_call(*arguments)
    for name, tensors in inliner.ends.items() if ends is not None else ():
        ends[name] = tuple(_keras.source_of(tensor)[0].name for tensor in tensors)
    if has_graph and not inliner.renamed:
        return None
    is_stock = has_graph or _keras.has_stock_train_step(copy)
    if take_class(copy, flat) and copy.compiled and is_stock:
        arguments = {**_keras.compile_arguments(copy), "optimizer": copy.optimizer}
        keras.Model.compile(flat, **arguments)
    return flat


def _refuse_what_stays(model):
    for call in trace(model).in_place.values():
        raise ValueError(
            "A layer cannot be inlined: its `call` uses weights of its own, does something else in "
            "training, or what it computes depends on the size of an input. "
            f"Received: layer={call.operation.name!r} ({type(call.operation).__name__}), "
            'custom_layers="inline". Use `custom_layers=None`, with which it is resized in place.'
        )


def _warn_of_training(inside, layer):
    if inside.is_for_inference:
        warnings.warn(
            f"The `call` of {layer.name!r} does something else in training, which its graph, by "
            "which it is replaced, does not do. Train before `strip`, or write that part as a "
            "layer of its own inside.",
            stacklevel=2,
        )


def sized_by_config(model):
    """Whether a composite layer of a model, or the model itself, has sizes in its config."""
    if _keras.functional(model) is None:
        return _keras.has_numbers(model)
    composite = filter(is_composite, graph_operations(model))
    return any(map(_keras.has_numbers, composite))


class _Inliner:
    """Calls the operations of a model again, and in place of composite layers those inside them.

    Args:
        model: A copy of the model, whose layers are taken.
        takes: Function of a composite layer: whether it is inlined.
    """

    def __init__(self, model, takes):
        self.model, self.takes = model, takes
        self.graph = _keras.functional(model)
        operations = [] if self.graph is None else self.graph.operations
        self.owners = {operation.name: id(operation) for operation in operations}
        self.renamed, self.ends = set(), {}
        self.wrappers = {}

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

    def run_call(self, args, kwargs):
        """Returns the graph of the `call` of a subclassed model, as a flat model."""
        inside = trace_composite(self.model, args, kwargs)
        _warn_of_training(inside, self.model)
        self._rename_inside(inside, "")
        given = kwargs or args[0]
        inputs = [
            keras.Input(
                batch_shape=tensor.shape, dtype=tensor.dtype, name=self._free_name(name, tensor)
            )
            for name, tensor in zip(names_in(given), keras.tree.flatten(given), strict=True)
        ]
        known = {id(inner): outer for inner, outer in zip(inside.inputs, inputs, strict=True)}
        outputs = keras.tree.flatten(inside.outputs)
        outputs = self._along(inside.nodes, known, outputs, inside.originals)
        return keras.Model(
            keras.tree.pack_sequence_as(given, inputs),
            keras.tree.pack_sequence_as(inside.outputs, outputs),
            name=self.model.name,
        )

    def _through(self, graph, inputs):
        known = {id(old): new for old, new in zip(graph.inputs, inputs, strict=True)}
        return self._along([node for node, _ in _keras.nodes(graph)], known, graph.outputs, {})

    def _along(self, nodes, known, outputs, originals):
        """Runs calls again, of the originals of copied layers; returns the outputs."""
        for node in nodes:
            args, kwargs = filled(node, known)
            operation = originals.get(id(node.operation), node.operation)
            found = keras.tree.flatten(self._call(operation, args, kwargs))
            known.update({id(old): new for old, new in zip(node.outputs, found, strict=True)})
        return [known[id(tensor)] for tensor in outputs]

    def _call(self, operation, args, kwargs):
        inner = _keras.functional(operation)
        if inner is not None and any(map(self._inlines, graph_operations(operation))):
            for each in graph_operations(operation):
                if self.owners.setdefault(each.name, id(each)) != id(each):
                    self._rename(each, f"{operation.name}_{each.name}")
            return self._through(inner, symbolic(args))
        if at_each_step(operation) is not None:
            operation = self._at_each_step(operation, args[0])
        is_inlined = self._inlines(operation)
        outputs = self._inline(operation, args, kwargs) if is_inlined else None
        return operation(*args, **kwargs) if outputs is None else outputs

    def _inlines(self, operation):
        return is_composite(operation) and self.takes(operation)

    def _at_each_step(self, operation, sequence):
        """A `TimeDistributed` whose layer is inlined, as a model, if it has composite layers."""
        inner = innermost(operation)
        graph = _keras.functional(inner)
        if not any(map(self._inlines, [inner] if graph is None else graph_operations(inner))):
            return operation
        if id(operation) not in self.wrappers:
            step = keras.Input(batch_shape=(None, *sequence.shape[2:]), dtype=sequence.dtype)
            output = keras.tree.flatten(self._call(operation.layer, [step], {}))[0]
            flat = keras.layers.TimeDistributed(
                keras.Model(step, output, name=operation.layer.name), name=operation.name
            )
            self.wrappers[id(operation)] = flat
        return self.wrappers[id(operation)]

    def _inline(self, layer, args, kwargs):
        """Returns the outputs of a layer as a graph of its sub-layers; None if that fails."""
        try:
            inside = trace_composite(layer, args, kwargs)
        except NotTracedError:
            return None
        if inside.in_place:
            return None
        _warn_of_training(inside, layer)
        if id(layer) not in self.renamed:
            self.renamed.add(id(layer))
            self._rename_inside(inside, f"{layer.name}_")
        given, outputs = symbolic((args, kwargs)), keras.tree.flatten(inside.outputs)
        known = {id(inner): outer for inner, outer in zip(inside.inputs, given, strict=True)}
        outputs = self._along(inside.nodes, known, outputs, inside.originals)
        if given and outputs:
            self.ends.setdefault(layer.name, (given[0], outputs[0]))
        return outputs

    def _rename_inside(self, inside, prefix):
        """Gives layers their names, and other operations ones that are the same in each trace."""
        found = {id(node.operation): node.operation for node in inside.nodes}.values()
        found = [inside.originals.get(id(operation), operation) for operation in found]
        for operation in sorted(found, key=lambda o: not isinstance(o, keras.layers.Layer)):
            self._rename(operation, prefix + _name_in_model(operation))

    def _rename(self, operation, wanted):
        operation.name = self._free_name(wanted, operation)

    def _free_name(self, wanted, owner):
        """The name as wanted, with a number behind where another has it."""
        name, number = wanted, 0
        while self.owners.setdefault(name, id(owner)) != id(owner):
            number += 1
            name = f"{wanted}_{number}"
        return name


def _name_in_model(operation):
    """The name of an operation, without the number that Keras counts up with each one it makes."""
    base, _, number = operation.name.rpartition("_")
    is_counted = number.isdigit() and not isinstance(operation, keras.layers.Layer)
    is_automatic = base.replace("_", "") == type(operation).__name__.lower()
    return base if is_counted and is_automatic else operation.name
