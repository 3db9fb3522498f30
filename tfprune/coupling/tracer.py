"""Walks the graphs of a model: its calls, and those in nested models and in composite layers."""

import dataclasses

import keras
import numpy as np

from tfprune import _keras
from tfprune.coupling import any_size
from tfprune.coupling.actual_shapes import with_actual_shapes
from tfprune.coupling.calls import Call, Passed, Tensor, Trace
from tfprune.coupling.composite import filled, is_traced, trace_composite
from tfprune.coupling.failures import no_graph
from tfprune.coupling.labels import FIXED, Labels, placed
from tfprune.coupling.layer_runs import NotTracedError, is_composite, symbolic
from tfprune.coupling.rules import label
from tfprune.coupling.rules.base import fixed
from tfprune.coupling.time_steps import at_each_step, folded, hides_mask, unfolded
from tfprune.coupling.weight_values import Spread, WeightArray, WeightAxes, gets_batch


def trace_call(model, args, kwargs, closed=(), keep=(), whole=False):
    """The trace of a subclassed model, of its `call` on symbolic tensors."""
    try:
        if id(model) in closed:
            raise NotTracedError(model, closed[id(model)])
        inside = trace_composite(model, args, kwargs, keep is True, closed)
    except NotTracedError as error:
        raise ValueError(no_graph(model, error)) from error
    tracer = Tracer(closed, keep, whole)
    if inside.in_place:
        return _trace_in_place(model, args, kwargs, inside, tracer)
    known = {id(tensor): tensor_of(tensor) for tensor in inside.inputs}
    calls = list(tracer.calls_inside(inside, known, (), lambda operation: operation.name))
    return tracer.trace(calls, inside.inputs, inside.outputs, known)


def _trace_in_place(model, args, kwargs, inside, tracer):
    """The trace of a subclassed model that stays what it is, with sizes that are numbers."""
    given = symbolic((args, kwargs))
    known = {id(tensor): tensor_of(tensor) for tensor in given}
    args, kwargs = keras.tree.map_structure(
        lambda leaf: known.get(id(leaf), leaf), (list(args), dict(kwargs))
    )
    made = keras.tree.flatten(inside.outputs)
    outputs = tuple(
        Tensor((None, *tensor.shape[1:]) if tensor.shape else (), tensor.dtype) for tensor in made
    )
    known.update({id(tensor): output for tensor, output in zip(made, outputs, strict=True)})
    calls = list(tracer._in_place(Call(model, tuple(args), kwargs, outputs), inside))
    return tracer.trace(calls, given, inside.outputs, known)


class Tracer:
    """Walks the graphs of a model, of the models in it and of its composite layers."""

    def __init__(self, closed=(), keep=(), whole=False):
        self.closed, self.keep, self.whole = closed, keep, whole
        self.entries = {}
        self.siblings = []
        self.names = {}
        self.in_place = {}
        self.inlined = {}
        self.classes_in_place = set()
        self.weight_axes = WeightAxes()

    def trace(self, calls, inputs, outputs, known):
        """The `Trace` of these calls; `known` has the `Tensor` of each symbolic one, by id."""
        outputs = keras.tree.map_structure(lambda tensor: known[id(tensor)], outputs)
        return Trace(
            inputs=tuple(known[id(tensor)] for tensor in inputs),
            outputs=tuple(keras.tree.flatten(outputs)),
            calls=tuple(calls),
            entries=self.entries,
            siblings=tuple(self.siblings),
            names=self.names,
            output_structure=outputs,
            in_place=self.in_place,
            inlined=self.inlined,
            weight_axes=self.weight_axes,
        )

    def calls(self, graph, known, parents):
        """The calls of a functional graph; `known` has the `Tensor` of each symbolic one, by id."""
        for node, index in _keras.nodes(graph):
            args, kwargs = filled(node, known)
            outputs = yield from self._calls_of(node, node.operation, args, kwargs, parents, index)
            known.update({id(t): ours for t, ours in zip(node.outputs, outputs, strict=True)})

    def _calls_of(self, node, operation, args, kwargs, parents, index, in_place=False):
        outputs = tuple(tensor_of(tensor) for tensor in node.outputs)
        call = Call(operation, tuple(args), kwargs, outputs, parents, index, in_place=in_place)
        return (yield from self._inlined(call))

    def _inlined(self, call):
        """The calls that a call stands for; returns the tensors that they make."""
        operation, arguments = call.operation, (list(call.args), call.kwargs)
        inner = _keras.functional(operation)
        if inner is not None:
            return (yield from self._model(operation, inner, call.args, call.parents))
        if at_each_step(operation) is not None and not hides_mask(call):
            return (yield from self._at_each_step(call))
        if id(operation) in self.closed:
            call = dataclasses.replace(call, not_traced=self.closed[id(operation)])
        elif is_composite(operation) or (not self.whole and is_traced(operation)):
            try:
                stays = self._is_in_kept(call) or self._stays(operation)
                inside = trace_composite(operation, *arguments, stays, self.closed)
            except NotTracedError as error:
                call = dataclasses.replace(call, not_traced=str(error))
            else:
                inlined = self._composite
                if inside.in_place:  # to try others of the class in other ways takes long
                    self.classes_in_place.add(type(operation))
                    call, inlined = with_actual_shapes(call), self._in_place
                if is_composite(operation) or _passes_units(call, inside):
                    outputs = yield from inlined(call, inside)
                    call = dataclasses.replace(call, outputs=tuple(outputs))
                    self.inlined.setdefault(id(operation), []).append(call)
                    return outputs
        call = with_actual_shapes(call)
        yield call
        return call.outputs

    def _stays(self, layer):
        """Whether a composite layer is to stay what it is, as others of its class do."""
        is_kept = self.keep is True or layer.name in self.keep
        return is_kept or type(layer) in self.classes_in_place

    def _is_in_kept(self, call):
        """Whether a call stands in a layer that stays what it is, maybe in a model in it."""
        return call.in_place or any(id(parent) in self.in_place for parent in call.parents)

    def _at_each_step(self, call):
        """The calls of what is in a `TimeDistributed`, for one of its calls."""
        calls, args, kwargs = folded(call)
        yield from calls
        (output,) = call.outputs
        made = (Tensor((None, *output.shape[2:]), output.dtype),)
        parents = (*call.parents, call.operation)
        step = Call(call.operation.layer, tuple(args), kwargs, made, parents, call.node_index)
        (made,) = yield from self._inlined(step)
        yield unfolded(call, made)
        return call.outputs

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

    def _composite(self, call, inside):
        layer, arguments = call.operation, (list(call.args), call.kwargs)
        known = dict(zip(map(id, inside.inputs), _tensors(arguments), strict=True))
        prefix = self.names.get(id(layer), layer.name)
        parents = (*call.parents, layer)
        yield from self.calls_inside(inside, known, parents, lambda part: f"{prefix}_{part.name}")
        return tuple(known[id(tensor)] for tensor in keras.tree.flatten(inside.outputs))

    def _in_place(self, call, inside):
        """The calls in a layer that stays what it is, in which sizes are numbers."""
        layer, known = call.operation, {}
        if not self._is_in_kept(call):
            self.in_place.setdefault(id(layer), call)
        parents, prefix = (*call.parents, layer), self.names.get(id(layer), layer.name)

        def passed(given, tensor, leaves=None):
            operation = Passed(f"{prefix}_passes", leaves)
            return Call(operation, (given,), {}, (tensor,), parents)

        arguments = keras.tree.flatten([list(call.args), call.kwargs])
        given_tensors = [leaf for leaf in arguments if isinstance(leaf, (Tensor, WeightArray))]
        for tensor, given in zip(inside.inputs, given_tensors, strict=True):
            known[id(tensor)] = given
            if isinstance(given, Tensor) and given.shape != tensor.shape:
                known[id(tensor)] = tensor_of(tensor)
                yield passed(given, known[id(tensor)])
        known.update(self._weights(layer, inside))
        names = {id(part): name for part, name in _keras.named_layers(layer)}

        def name_of(operation):
            if id(operation) not in names or isinstance(layer, keras.Model):
                return operation.name
            return prefix + names[id(operation)].removeprefix(layer.name)

        yield from self.calls_inside(inside, known, parents, name_of)
        for tensor, output in zip(keras.tree.flatten(inside.outputs), call.outputs, strict=True):
            made = known.get(id(tensor))
            if isinstance(made, Tensor):
                yield passed(made, output, layer)
                continue
            if made is None:  # a constant, or None
                made = np.full((1,) * len(output.shape), np.nan)
            yield Call(Spread(made, f"{prefix}_makes"), (), {}, (output,), parents)
        return call.outputs

    def _weights(self, layer, inside):
        """The arrays of the weights that the calls in a layer take, by the ids of what they are."""
        owners = {id(weight): part for part in _keras.all_layers(layer) for weight in part.weights}
        leaves = {
            id(leaf): leaf for node in inside.nodes for leaf in keras.tree.flatten(filled(node, {}))
        }
        taken = {
            key: inside.originals[key]
            for key, leaf in leaves.items()
            if isinstance(leaf, keras.Variable)
        }
        taken.update({id(t): weight for t, weight in inside.weights if id(t) in leaves})
        return {
            key: self.weight_axes.of(owners.get(id(weight)), weight)
            for key, weight in taken.items()
        }

    def calls_inside(self, inside, known, parents, name_of):
        """The calls in a composite layer; `name_of` names an operation after where it is."""
        for index, node in enumerate(inside.nodes):
            operation = inside.originals.get(id(node.operation), node.operation)
            self.names.setdefault(id(operation), name_of(operation))
            args, kwargs = filled(node, known)
            leaves = keras.tree.flatten((args, kwargs))
            is_of_weights = not any(isinstance(leaf, Tensor) for leaf in leaves)
            if is_of_weights and getattr(operation, "weights", ()):
                args, kwargs = yield from self._as_tensors(operation, (args, kwargs), parents)
                is_of_weights = not _tensors((args, kwargs))
            if not is_of_weights:
                outputs = yield from self._calls_of(
                    node, operation, args, kwargs, parents, index, inside.in_place
                )
            else:
                outputs = yield from self._of_weights(node, operation, args, kwargs, parents)
            known.update({id(t): ours for t, ours in zip(node.outputs, outputs, strict=True)})

    def _as_tensors(self, operation, structure, parents):
        """Arguments with a tensor in place of each weight, for a layer that has some itself."""
        tensors = {}
        for leaf in keras.tree.flatten(structure):
            if isinstance(leaf, WeightArray) and (leaf.ndim > 1 or set(leaf.axes) == {None}):
                tensors[id(leaf)] = Tensor(leaf.shape, leaf.dtype.name)
                spread = Spread(leaf, f"{operation.name}_takes")
                yield Call(spread, (), {}, (tensors[id(leaf)],), parents, in_place=True)
        return keras.tree.map_structure(lambda leaf: tensors.get(id(leaf), leaf), structure)

    def _of_weights(self, node, operation, args, kwargs, parents):
        """The outputs of an operation on weights alone: arrays, or tensors if it repeats them."""
        leaves, outputs = keras.tree.flatten((args, kwargs)), []
        for tensor, array in zip(
            node.outputs, self.weight_axes.applied(operation, args, kwargs), strict=True
        ):
            if gets_batch(operation, leaves, array, any_size.STATIC_SIZES[0][0]):
                outputs.append(tensor_of(tensor))
                spread = Spread(array, operation.name)
                yield Call(spread, (), {}, outputs[-1:], parents, in_place=True)
            else:
                outputs.append(array)
        return outputs


def _passes_units(call, inside):
    """Whether units along the last axes pass through a layer that is inlined, and none are pinned.

    A layer without others inside may also have a rule as a whole, which is inferred by running it.
    """
    tracer, labels = Tracer(), Labels()
    calls = list(tracer._in_place(call, inside))
    tracer.weight_axes.record(labels, calls)
    known = {mask: fixed(mask) for mask in call.masks}
    for tensor in call.inputs:
        known[tensor] = fixed(tensor)
        if len(tensor.shape) > 1 and tensor.shape[-1] and "float" in tensor.dtype:
            known[tensor] = placed(labels.fresh(tensor.shape[-1]), -1, len(tensor.shape) - 1)
    given = np.concatenate([known[tensor].reshape(-1) for tensor in call.inputs])
    label(calls, known, labels)
    made = np.concatenate([known[tensor].reshape(-1) for tensor in call.outputs])
    roots = labels.roots()
    pinned = roots[np.concatenate([[FIXED], *(units for units, _ in labels.pins)])]
    is_pinned = np.isin(roots[[*given[given != FIXED], *made]], pinned)
    return not is_pinned.any()


def _tensors(structure):
    return [leaf for leaf in keras.tree.flatten(structure) if isinstance(leaf, Tensor)]


def tensor_of(keras_tensor):
    """The `Tensor` of a symbolic tensor of Keras."""
    return Tensor(
        tuple(keras_tensor.shape),
        keras.backend.standardize_dtype(keras_tensor.dtype),
        _keras.carries_mask(keras_tensor),
    )
