"""Traces: a model as the list of the calls of its operations, with nested models flattened."""

import contextlib
import dataclasses

import keras
import numpy as np

from tfprune import _keras
from tfprune.coupling import any_size
from tfprune.coupling.actual_shapes import with_actual_shapes
from tfprune.coupling.calls import Call, Passed, Tensor, Trace
from tfprune.coupling.composite import filled, is_opened, open_composite
from tfprune.coupling.failures import no_graph, not_recorded
from tfprune.coupling.labels import FIXED, Labels, placed
from tfprune.coupling.layer_runs import NotTracedError, is_composite, symbolic
from tfprune.coupling.rules import label, rule_of
from tfprune.coupling.rules.base import fixed
from tfprune.coupling.rules.embedding import Embedding
from tfprune.coupling.time_steps import at_each_step, folded, hides_mask, unfolded
from tfprune.coupling.unreached import unreached_parts
from tfprune.coupling.weight_values import Spread, WeightArray, WeightAxes, gets_batch

_OF_TEXT = (keras.layers.Hashing, keras.layers.StringLookup, keras.layers.TextVectorization)


def trace(model, closed=(), keep=(), whole=False):
    """Returns the calls of a model in topological order.

    Nested models are flattened, and composite layers opened: in place of a call of theirs stand the
    calls of the layers inside them. The graph of a subclassed model is that of its `call`, in
    inference mode, on inputs of the shapes for which it was built.

    Args:
        model: Any Keras model that is built. It is not changed.
        closed: Dict from the id of a layer that is not opened to the reason.
        keep: The names of the composite layers that stay what they are, and are resized in place;
            or True for all.
        whole: Whether layers that hold no others are left whole, though they hold weights.

    Returns:
        A `Trace`.

    Raises:
        ValueError: If the model is not built, or is subclassed and its `call` cannot be traced.

    Example:

    >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, name="d")])
    >>> [(call.operation.name, call.outputs[0].shape) for call in trace(model).calls]
    [('d', (None, 2))]
    """
    graph = _keras.functional(model)
    if graph is None:
        traced = _trace_call(model, *call_arguments(model), closed, keep, whole)
    else:
        known = {id(tensor): _tensor(tensor) for tensor in graph.inputs}
        tracer = _Tracer(closed, keep, whole)
        calls = list(tracer.calls(graph, known, ()))
        traced = tracer.trace(calls, graph.inputs, _keras.output_structure(model), known)
    return dataclasses.replace(traced, unreached=tuple(unreached_parts(model, traced)))


def call_arguments(model):
    """The arguments of the `call` of a model, as symbolic tensors.

    Those of a subclassed model have the shapes for which it was built, and whole numbers or strings
    where an `Embedding` or a layer for text takes them, or where the model cannot be called on
    others. Of a model with several arguments and no `build` of its own, Keras keeps the shape of
    the first alone. They are known if it was called on symbolic tensors, or if it is prunable and
    was called at all.

    Returns:
        A tuple of the positional arguments and the keyword arguments.

    Raises:
        ValueError: If the model has no graph because it is not built, or cannot be traced.
    """
    if _keras.functional(model) is not None:
        return (_keras.input_structure(model),), {}
    inputs = _keras.built_inputs(model) if isinstance(model, keras.Model) else {}
    given = _keras.called_on(model) if isinstance(model, keras.Model) else {}
    if not (inputs or given) or isinstance(model, keras.Sequential):
        raise ValueError(no_graph(model))
    if len(given) > len(inputs):
        is_first_alone = list(given) == _keras.required_arguments(model)[:1]
        return (tuple(given.values()), {}) if is_first_alone else ((), given)
    if len(inputs) < len(_keras.required_arguments(model)):
        raise ValueError(not_recorded(model))
    if len(inputs) == 1:
        arguments = tuple(inputs.values()), {}
    else:
        arguments = (), {name.removesuffix("_shape"): each for name, each in inputs.items()}
    try:
        traced = _trace_call(model, *arguments)
    except ValueError as error:
        for dtype in ("int32", "string"):
            others = keras.tree.map_structure(lambda tensor: _of(dtype, tensor), arguments)  # noqa: B023
            with contextlib.suppress(ValueError):
                _trace_call(model, *others)
                return others
        raise error from None
    places = iter(traced.inputs)
    return keras.tree.map_structure(
        lambda tensor: _of(_looked_up_dtype(next(places), traced), tensor), arguments
    )


def input_structure(model):
    """The structure in which a model takes its inputs, as symbolic tensors.

    That of a subclassed model is its first argument, or a dict of all whose shapes are known.
    """
    args, kwargs = call_arguments(model)
    return kwargs or args[0]


def input_names(model):
    """The names of the inputs of a model, in their order.

    Those of a subclassed model are their places in its first argument, or in the dict of all.
    """
    graph = _keras.functional(model)
    if graph is not None:
        return [layer.name for layer in _keras.input_layers(graph)]
    return names_in(input_structure(model))


def names_in(structure):
    """A name for each tensor of a structure, after its place there."""
    paths = [path for path, _ in keras.tree.flatten_with_path(structure)]
    return ["_".join(map(str, path)) or "inputs" for path in paths]


def _of(dtype, tensor):
    return tensor if dtype is None else keras.KerasTensor(tensor.shape, dtype)


def _looked_up_dtype(tensor, traced):
    """The dtype of an input that is looked up by the layers that take it; None of any other."""
    users = traced.users_of(tensor)
    if any(isinstance(rule_of(user), Embedding) for user in users):
        return "int32"
    return "string" if any(isinstance(user, _OF_TEXT) for user in users) else None


def _trace_call(model, args, kwargs, closed=(), keep=(), whole=False):
    """The trace of a subclassed model, of its `call` on symbolic tensors."""
    try:
        if id(model) in closed:
            raise NotTracedError(model, closed[id(model)])
        inside = open_composite(model, args, kwargs, keep is True)
    except NotTracedError as error:
        raise ValueError(no_graph(model, error)) from error
    tracer = _Tracer(closed, keep, whole)
    if inside.in_place:
        return _trace_in_place(model, args, kwargs, inside, tracer)
    known = {id(tensor): _tensor(tensor) for tensor in inside.inputs}
    calls = list(tracer.calls_inside(inside, known, (), lambda operation: operation.name))
    return tracer.trace(calls, inside.inputs, inside.outputs, known)


def _trace_in_place(model, args, kwargs, inside, tracer):
    """The trace of a subclassed model that stays what it is, with sizes that are numbers."""
    given = symbolic((args, kwargs))
    known = {id(tensor): _tensor(tensor) for tensor in given}
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


class _Tracer:
    """Walks the graphs of a model, of the models in it and of its composite layers."""

    def __init__(self, closed=(), keep=(), whole=False):
        self.closed, self.keep, self.whole = closed, keep, whole
        self.entries = {}
        self.siblings = []
        self.names = {}
        self.in_place = {}
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
            weight_axes=self.weight_axes,
        )

    def calls(self, graph, known, parents):
        """The calls of a functional graph; `known` has the `Tensor` of each symbolic one, by id."""
        for node, index in _keras.nodes(graph):
            args, kwargs = filled(node, known)
            outputs = yield from self._calls_of(node, node.operation, args, kwargs, parents, index)
            known.update({id(t): ours for t, ours in zip(node.outputs, outputs, strict=True)})

    def _calls_of(self, node, operation, args, kwargs, parents, index, in_place=False):
        outputs = tuple(_tensor(tensor) for tensor in node.outputs)
        call = Call(operation, tuple(args), kwargs, outputs, parents, index, in_place=in_place)
        return (yield from self._opened(call))

    def _opened(self, call):
        """The calls that a call stands for; returns the tensors that they make."""
        operation, arguments = call.operation, (list(call.args), call.kwargs)
        inner = _keras.functional(operation)
        if inner is not None:
            return (yield from self._model(operation, inner, call.args, call.parents))
        if at_each_step(operation) is not None and not hides_mask(call):
            return (yield from self._at_each_step(call))
        if id(operation) in self.closed:
            call = dataclasses.replace(call, not_traced=self.closed[id(operation)])
        elif is_composite(operation) or (not self.whole and is_opened(operation)):
            try:
                stays = call.in_place or self._stays(operation)
                inside = open_composite(operation, *arguments, stays)
            except NotTracedError as error:
                call = dataclasses.replace(call, not_traced=str(error))
            else:
                opened = self._composite
                if inside.in_place:  # to try others of the class in other ways takes long
                    self.classes_in_place.add(type(operation))
                    call, opened = with_actual_shapes(call), self._in_place
                if is_composite(operation) or _passes_units(call, inside):
                    return (yield from opened(call, inside))
        call = with_actual_shapes(call)
        yield call
        return call.outputs

    def _stays(self, layer):
        """Whether a composite layer is to stay what it is, as others of its class do."""
        is_kept = self.keep is True or layer.name in self.keep
        return is_kept or type(layer) in self.classes_in_place

    def _at_each_step(self, call):
        """The calls of what is in a `TimeDistributed`, for one of its calls."""
        calls, args, kwargs = folded(call)
        yield from calls
        (output,) = call.outputs
        made = (Tensor((None, *output.shape[2:]), output.dtype),)
        parents = (*call.parents, call.operation)
        step = Call(call.operation.layer, tuple(args), kwargs, made, parents, call.node_index)
        (made,) = yield from self._opened(step)
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
        if not call.in_place:
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
                known[id(tensor)] = _tensor(tensor)
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
                outputs.append(_tensor(tensor))
                spread = Spread(array, operation.name)
                yield Call(spread, (), {}, outputs[-1:], parents, in_place=True)
            else:
                outputs.append(array)
        return outputs


def _passes_units(call, inside):
    """Whether units along the last axes pass through a layer that is opened, and none are pinned.

    A layer without others inside may also have a rule as a whole, which is inferred by running it.
    """
    tracer, labels = _Tracer(), Labels()
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


def _tensor(keras_tensor):
    return Tensor(
        tuple(keras_tensor.shape),
        keras.backend.standardize_dtype(keras_tensor.dtype),
        _keras.carries_mask(keras_tensor),
    )
