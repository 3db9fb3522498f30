"""Applies edits of the graph to a model: rebuilds it and carries over weights and slots."""

import contextlib
import functools
import os

import keras
import numpy as np
import tensorflow as tf

from tfprune import _keras
from tfprune.coupling.analysis import couple
from tfprune.coupling.calls import Tensor
from tfprune.coupling.composite import filled
from tfprune.coupling.index_maps import carried_index_maps, gathered
from tfprune.coupling.kept_units import NEW, keeping
from tfprune.coupling.model_trace import trace
from tfprune.rebuild import convert, copied_state
from tfprune.rebuild.new_values import gathered_slot
from tfprune.rebuild.unchanged_copies import UnchangedCopies
from tfprune.surgery.edits.base import Draft
from tfprune.surgery.growth import Growth
from tfprune.surgery.lookup import calls_of, operation_at, units_along
from tfprune.surgery.measures import carry_over_edits

_UNCHECKED = (
    keras.layers.Attention,
    keras.layers.AdditiveAttention,
    keras.layers.MultiHeadAttention,
    keras.layers.GroupQueryAttention,
)


def apply_edits(model, edits):
    """A new model with several edits applied at once; sizes must fit.

    Args:
        model: The model. It is not changed.
        edits: The `Edit`s.

    Returns:
        The new model, with compile state and slots.

    Raises:
        ValueError: If there is no such model, with the reason.
    """
    others = [edit for edit in edits if not edit.alone]
    if 0 < len(others) < len(edits) or len(edits) - len(others) > 1:
        parts = [others] if others else []
        for part in [*parts, *([edit] for edit in edits if edit.alone)]:
            model = apply_edits(model, part)
        return model
    draft = Draft()
    for edit in edits:
        edit.draft(model, draft)
    replaced = {id(operation) for _, operation, _ in draft.replaced}
    try:
        new, copies = _rebuilt(model, draft, replaced)
        if not all(edit.keeps_shapes for edit in edits):
            _run_attention(new)
            _run_own_layers(model, new)
    except Exception as error:  # Keras and layers raise whatever they like
        raise ValueError(_no_model(edits, error)) from error
    pairs = list(_keras.variable_pairs(model, new, replaced))
    for path, operation, keeps_weights in draft.replaced:
        if keeps_weights:
            pairs += _same_variables(operation, operation_at(new, path, operation.name))
    indices, *moved = _indices(model, new, draft, pairs)
    needs_growth = draft.concatenations or draft.gathered
    growth = Growth(model, _all_kept(model)) if needs_growth else None

    def chosen_of(variable):
        return draft.gathered.get(id(variable), indices.get(id(variable), {}))

    def take(variable, value, counterpart):
        chosen = chosen_of(variable)
        value = gathered(value, draft.windows.get(id(variable), {}), 0)
        if chosen:
            value = growth.new_value(variable, value, chosen, counterpart)
        _check_shape(edits, variable, value, counterpart)
        return value

    def take_mask(variable, value, counterpart):
        return gathered(value, all_indices(variable), counterpart)

    def take_slot(variable, value, counterpart, name):
        return gathered_slot(variable, value, all_indices(variable), counterpart, name)

    def all_indices(variable):
        return {**draft.windows.get(id(variable), {}), **chosen_of(variable)}

    for change in draft.weight_setters:  # first, since what is wrong with a layer explains the rest
        change(new)
    missing = [pair for pair in pairs if not copies.is_done(pair[1])]
    copied_state.copy_weights(model, new, take, take_mask, missing)
    carry_over_edits(model, new, *moved)
    for check in draft.checks:
        check(new)
    copied_state.copy_compile_state(model, new, take_slot, pairs)
    return apply_edits(new, draft.next_edits) if draft.next_edits else new


def _rebuilt(model, draft, replaced):
    """The model from its edited config, and which of its layers are copies with their weights."""

    def made(copies):
        return convert.rebuilt(
            model,
            draft.edit,
            draft.dropped_inputs,
            draft.restructure,
            draft.new_layers,
            resize_kept=lambda layer, copy: copies.takes(layer) and copies.resize(layer, copy),
            copies=copies,
            initialize=True,
            replaced=replaced,
        )

    operations = list(convert.graph_operations(model))
    everything = set(map(id, operations))
    if not (draft.concatenations or draft.gathered):  # else layers after them change
        changed = {*draft.layer_edits, *replaced, *draft.repeated}
        copies = UnchangedCopies(model, operations, changed)
        with contextlib.suppress(Exception):  # it comes again if all layers are made from configs
            new = made(copies)
            if _take_what_they_took(model, new, copies):
                return new, copies
    copies = UnchangedCopies(model, operations, everything)
    return made(copies), copies


def _take_what_they_took(model, new, copies):
    """Whether the layers that were copied are called on the shapes that they were built for."""
    known = _calls(model, lambda layer: copies.takes(layer) and layer.weights)
    names = known.keys()
    calls = _calls(new, lambda layer: True)
    return all(
        _shapes(node) in map(_shapes, known[key]) for key in names for node in calls.get(key, ())
    )


def _run_attention(model):
    """Runs attention layers in a graph: on symbolic tensors they accept shapes that do not fit."""
    for call in trace(model).calls:
        if isinstance(call.operation, _UNCHECKED):
            given = (*call.inputs, *call.masks)
            specs = [tf.TensorSpec(tensor.shape, tensor.dtype) for tensor in given]
            tf.function(functools.partial(_run, call, given)).get_concrete_function(*specs)


def _run_own_layers(model, new):
    """Runs custom layers that take other shapes: Keras asks those that tell theirs."""
    before = {key: list(map(_shapes, nodes)) for key, nodes in _calls(model, _is_own).items()}
    for key, nodes in _calls(new, _is_own).items():
        for node in nodes:
            if _shapes(node) in before.get(key, []):
                continue
            given = node.arguments.keras_tensors
            specs = [tf.TensorSpec(tensor.shape, tensor.dtype) for tensor in given]
            tf.function(functools.partial(_run_node, node)).get_concrete_function(*specs)


def _run_node(node, *tensors):
    ids = map(id, node.arguments.keras_tensors)
    args, kwargs = filled(node, dict(zip(ids, tensors, strict=True)))
    return node.operation(*args, **kwargs)


def _calls(model, is_meant, path=()):
    """The calls of some layers, by the names of the models around and their own."""
    found = {}
    for node, _ in _keras.nodes(_keras.functional(model)):
        layer, key = node.operation, (*path, node.operation.name)
        if _keras.functional(layer) is not None:
            if key not in found:
                found.update({key: [], **_calls(layer, is_meant, key)})
        elif isinstance(layer, keras.layers.Layer) and is_meant(layer):
            found.setdefault(key, []).append(node)
    return found


def _is_own(layer):
    return not _keras.is_stock(type(layer))


def _shapes(node):
    return [tensor.shape for tensor in node.arguments.keras_tensors]


def _run(call, given, *tensors):
    known = dict(zip(given, tensors, strict=True))
    args, kwargs = keras.tree.map_structure(
        lambda leaf: known[leaf] if isinstance(leaf, Tensor) else leaf,
        (list(call.args), dict(call.kwargs)),
    )
    return call.operation(*args, **kwargs)


def _all_kept(model):
    coupling = couple(model)
    return keeping(coupling, np.ones(coupling.size, bool))


def copy_model(model):
    """A copy of a model, with weights, compile state and slots."""
    new = convert.rebuilt(model, lambda config, _: config)
    copied_state.copy_weights(model, new)
    carry_over_edits(model, new)
    copied_state.copy_compile_state(model, new)
    return new


def _indices(model, new, draft, pairs):
    """For each variable after a changed concatenation the old indices along its axes.

    Also the units before and after, and pairs of those of changed concatenations.
    """
    if not draft.concatenations:
        return ({},)
    joined = list(draft.concatenations.values())
    operations = [operation for _, operation, _ in joined]
    theirs = [operation_at(new, path, operation.name) for path, operation, _ in joined]
    before, after = couple(model, operations), couple(new, [each for each in theirs if each])
    made = []
    for (_, operation, positions), other in zip(joined, theirs, strict=True):
        if other is not None:
            old, new_units = _output_units(before, operation), _output_units(after, other)
            positions = np.asarray(positions)
            made.append((np.where(positions == NEW, NEW, old[positions]), new_units))
    return carried_index_maps(before, after, pairs, made), before, after, made


def _output_units(coupling, operation):
    return units_along(coupling, calls_of(coupling, operation)[0].outputs[0])


def _same_variables(ours, theirs):
    """The weights of two layers that have the same name and shape."""
    found = {_key(theirs, variable): variable for variable in theirs.weights}
    for variable in ours.weights:
        if _key(ours, variable) in found:
            yield variable, found[_key(ours, variable)]


def _key(layer, variable):
    """The name of a weight in its layer, as `query/kernel`, and its shape."""
    around, path = f"{layer.name}/", variable.path
    if around not in path:  # an inlined layer, whose weights have the path that they had
        around = os.path.commonprefix([each.path for each in layer.weights])
        around = around[: around.rfind("/") + 1]
    return path.rsplit(around, 1)[-1] if around else path, tuple(variable.shape)


def _check_shape(edits, variable, value, counterpart):
    if tuple(value.shape) != tuple(counterpart.shape):
        raise ValueError(
            "A weight does not fit the new model, because the shape of what its layer takes "
            "changes in more than its channels. Nothing was changed. "
            f"Received: edits={_names(edits)}, weight={variable.path!r} of shape "
            f"{tuple(value.shape)}, where {tuple(counterpart.shape)} is needed. Give layers that "
            "come in the shape of what they stand for, choose padding and strides which keep it, "
            "or replace the layer of the weight too."
        )


def _no_model(edits, error):
    return (
        "With these edits there is no model, and nothing was changed. "
        f"Received: edits={_names(edits)}. Reason: {str(error).strip() or repr(error)}"
    )


def _names(edits):
    return [" ".join(edit.describe()[:2]) for edit in edits]
