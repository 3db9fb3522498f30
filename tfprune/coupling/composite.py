"""Composite layers, made of layers: the graph of what their `call` does.

The `call` of a copy of the layer is run on symbolic tensors, so no layer's computation is written a
second time here, and the layer itself is not touched.
"""

import dataclasses
import inspect
import itertools
import math
import weakref

import keras

from tfprune import _keras
from tfprune.coupling import any_size
from tfprune.coupling.layer_runs import (
    LayerRun,
    NotTracedError,
    is_composite,
    own_class,
    tensors_in,
)
from tfprune.coupling.rules import has_rule
from tfprune.coupling.training_branches import calls_made


def filled(node, known):
    """The arguments of a call, with what `known` has in place of symbolic tensors, by id.

    Constant tensors become arrays, which rules and configs know.
    """

    def value(leaf):
        is_constant = keras.ops.is_tensor(leaf) and not _keras.is_symbolic(leaf)
        return keras.ops.convert_to_numpy(leaf) if is_constant else known.get(id(leaf), leaf)

    structure = [list(node.arguments.args), dict(node.arguments.kwargs)]
    return keras.tree.map_structure(value, structure)


def is_traced(operation):
    """Whether an operation is a layer of a user's class whose `call` is looked into.

    Those are composite layers, and layers with weights of their own.
    """
    if is_composite(operation):
        return True
    is_own = isinstance(operation, keras.layers.Layer) and not _keras.is_stock(type(operation))
    return is_own and bool(operation.weights) and not has_rule(operation)


def trace_composite(layer, args, kwargs, in_place=False, closed=()):
    """Runs the `call` of a copy of a composite layer on symbolic tensors.

    Args:
        layer: The layer, or a subclassed model. It is not changed.
        args, kwargs: The arguments of the call, with symbolic tensors, or a `Tensor` in place of
            each.
        in_place: Whether the layer stands inside one that stays what it is.
        closed: The ids of layers that are not looked into.

    Returns:
        An `Inside`.

    Raises:
        NotTracedError: If the call fails on symbolic tensors.
    """
    if in_place or not is_composite(layer):
        return _traced_in_place(layer, args, kwargs, closed)
    inside = why = None
    try:
        inside = _traced_to_inline(layer, args, kwargs)
        if not trains_otherwise(layer, args, kwargs):
            return inside
    except NotTracedError as error:
        why = error
    try:
        return _traced_in_place(layer, args, kwargs, closed)
    except NotTracedError as error:
        if inside is not None:
            return dataclasses.replace(inside, is_for_inference=True)
        raise (why if why.depth >= error.depth else error) from None


def _traced_to_inline(layer, args, kwargs):
    """The `Inside` of a layer that its graph can replace."""
    run = _run(layer)
    try:
        inside = run.traced(args, kwargs)
        if any_size.is_runnable(inside.nodes):
            return inside
        why = NotTracedError(layer, "it calls an operation with a size that is not known", depth=0)
    except NotTracedError as error:
        why = error
    try:
        return run.traced_with_sizes(args, kwargs)
    except NotTracedError as error:
        is_alike = why.depth == error.depth < math.inf
        raise (why if is_alike or why.depth > error.depth else error) from None


def trains_otherwise(layer, args, kwargs):
    """Whether `call` does something else in training, beside what the layers in it do."""
    if "training" not in inspect.signature(own_class(layer).call).parameters:
        return False
    made = []
    for training in (False, True):
        run = _run(layer)
        run.training = training
        before = run.states()
        try:
            inside, _ = run.traced_once(args, kwargs, any_size.STATIC_SIZES[0])
        except NotTracedError:
            made.append(None)
        else:
            made.append((calls_made(inside), any_size.is_equal(before, run.states())))
    return made[0] is not None and made[0] != made[1]


def _traced_in_place(layer, args, kwargs, left):
    """The `Inside` of a layer that stays what it is.

    If the layers inside that hold no others cannot be called on symbolic tensors, as when they say
    a wrong output shape, their calls are looked into as well. Layers inside whose own calls fail,
    or whose ids are in `left`, are not looked into: they are calls of the graph as they are. Sizes
    are preferred with which the layers inside can be called.
    """
    first, closed = None, list(_closed.get(layer, ()))
    left = [part for part in _keras.all_layers(layer)[1:] if id(part) in left]
    all_sizes = any_size.static_sizes(layer, tensors_in((args, kwargs)))
    while True:
        outside = [*closed, *left]
        found, failed, errors = _traced_with_any(layer, args, kwargs, all_sizes, outside)
        first = first or next(iter(errors), None)
        if found is not None:
            if closed:
                _closed[layer] = weakref.WeakSet(closed)
            return found
        if failed is None:
            raise first
        closed.append(failed)
        all_sizes = any_size.STATIC_SIZES  # others did not help


def _traced_with_any(layer, args, kwargs, all_sizes, closed):
    """The `Inside` of a layer for the first sizes, and in the first way, for which there is one.

    Returns:
        The `Inside` or None, the first layer inside whose call failed or None, and the errors.
    """
    has_own = any(not _keras.is_stock(type(part)) for part in _keras.all_layers(layer)[1:])
    found = failed = None
    errors, with_weights_outside = [], set()
    ways = itertools.product((False, True), (False, True)[: 1 + has_own], all_sizes)
    before = _ways.get(layer)
    for way in ways if before is None else (before, *ways):
        with_constants, deeply, sizes = way
        is_other = with_constants and way != before
        if is_other and (found is not None or sizes not in with_weights_outside):
            continue
        run = _run(layer)
        try:
            inside = run.traced_in_place(args, kwargs, sizes, deeply, closed, with_constants)
        except NotTracedError as error:
            errors.append(error)
            failed = failed or run.failed
            if run.is_outside:
                with_weights_outside.add(sizes)
            continue
        found = found or inside
        if _can_call_parts(inside):
            _ways[layer] = way
            return inside, failed, errors
    return found, failed, errors


def _can_call_parts(inside):
    """Whether layers of users' classes in a graph with numbers as sizes can be called there."""

    def zeros(leaf):
        is_tensor = _keras.is_symbolic(leaf) and leaf.dtype != "string"
        return keras.ops.zeros(leaf.shape, leaf.dtype) if is_tensor else leaf

    for node in inside.nodes:
        layer = inside.originals.get(id(node.operation))
        if layer is None or _keras.is_stock(type(layer)) or not getattr(layer, "weights", ()):
            continue
        arguments = list(node.arguments.args), dict(node.arguments.kwargs)
        args, kwargs = keras.tree.map_structure(zeros, arguments)
        try:
            _keras.called_in_inference(node.operation, args, kwargs)
        except Exception:  # the layer's own code may fail in any way
            return False
    return True


_closed = weakref.WeakKeyDictionary()
"""For layers that were traced in place, the layers inside whose own calls fail."""

_ways = weakref.WeakKeyDictionary()
"""For layers that were traced in place, how: this is tried first when they are traced again."""


def _run(layer):
    copies = _keras.copied_objects(layer)
    return LayerRun(layer, copies[0][1], _keras.Originals(copies))
