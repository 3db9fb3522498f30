"""Composite layers of users' classes that stay the objects they are, resized on their copies.

The layers inside that have rules are made anew from their edited configs, and take the places of
those that the copy has. The weights of users' classes get new shapes. Which whole numbers among the
attributes are sizes that have to follow is found in `size_attributes`.
"""

import functools

import keras
import numpy as np

from tfprune import _keras
from tfprune.coupling.calls import Tensor
from tfprune.coupling.kept_cells import KeptCells
from tfprune.coupling.rules import has_rule, rule_of


def resize_in_place(layer, copy, edited, calls, sizes):
    """Resizes the copy of a composite layer.

    Args:
        layer: The layer, which was inlined when the model was traced.
        copy: Its copy without masks, changed in place. Weights get the new shapes.
        edited: Function of a serialised operation and the operation, which returns it with its new
            sizes.
        calls: For each operation, by id, its calls.
        sizes: The `Sizes` after the change.
    """
    _resize_parts(layer, copy, edited, calls, sizes)
    trace = sizes.coupling.trace
    call = trace.in_place.get(id(layer)) or trace.inlined[id(layer)][0]
    _keras.forget_input_shape(
        copy, [(tensor.shape, sizes.of_tensor(tensor)) for tensor in call.inputs]
    )


def _resize_parts(layer, copy, edited, calls, sizes):
    said = []

    def resize_kept(model, cells, part, new):
        if id(part) in cells:
            cells[id(part)](new, sizes)
            return
        _resize_parts(part, new, edited, calls, sizes)
        _keras.forget_input_shape(new)
        said.append(new)
        # Which numbers it needs to say them itself is found when the whole layer runs.
        _keras.say_outputs(new, _outputs_of_calls(model, part, calls, sizes))

    parts = list(zip(_keras.all_layers(layer), _keras.all_layers(copy), strict=True))
    inside = set()
    for part, new in parts:
        if id(part) in inside:
            continue
        if _keras.functional(part) is not None:
            inside.update(map(id, _keras.all_layers(part)))
            resize = functools.partial(resize_kept, part, _cells_in(part, calls))
            _keras.become(new, _rebuild_model[0](part, edited, resize))
            while said:
                _keras.say_no_outputs(said.pop())
        elif id(part) in calls and has_rule(part):
            inside.update(map(id, _keras.all_layers(part)))
            is_quantized = bool(_keras.quantized_layers(part))  # then no size of it changes
            if not is_quantized and (part.weights or _is_resized(part, calls, sizes)):
                _make_anew(part, new, edited, calls[id(part)][0], sizes)
        elif id(part) in calls:
            rule_of(part).resize_in_place(new, calls[id(part)][0], sizes)
        else:
            _resize_weights(part, new, sizes)


_rebuild_model = []


def rebuilds_models_inside(function):
    """Registers how models inside composite layers are made anew, which another room knows.

    Args:
        function: Function of a model, of `edited` as in `resize_in_place`, and of a function of a
            layer of a user's class in the model and its copy, which resizes the copy. It returns
            the new model.
    """
    _rebuild_model[:] = [function]
    return function


def _make_anew(part, new, edited, call, sizes):
    """Puts a layer with new sizes in the place of one that the copy has; cells stay objects."""
    custom_objects = _keras.custom_objects_of(_keras.all_layers(new))
    kept, inside = KeptCells([new]), rule_of(part).in_place(call)
    for ours, theirs in zip(_keras.all_layers(part), _keras.all_layers(new), strict=True):
        if id(ours) in inside:
            inside[id(ours)](theirs, sizes)
    with _keras.not_asked_for_configs(kept.cells):
        config = kept.named(_keras.without_shapes(keras.saving.serialize_keras_object(new)))
    config = edited(_keras.with_functions(config, new, custom_objects), part)
    made = keras.saving.deserialize_keras_object(
        config, custom_objects={**custom_objects, **kept.become(kept.cells)}, safe_mode=False
    )

    def value(leaf):
        if not isinstance(leaf, Tensor):
            return leaf
        return keras.KerasTensor(sizes.of_tensor(leaf), leaf.dtype)

    args, kwargs = keras.tree.map_structure(value, (list(call.args), dict(call.kwargs)))
    made(*args, **kwargs)
    kept.restore()
    _keras.become(new, made)


def resized_config(config, operation, sizes, folds=None):
    """Returns a serialised operation with new sizes in its arguments and in those of its calls.

    Args:
        config: The serialised operation, by itself or with its calls.
        operation: The operation.
        sizes: The `Sizes` after the change.
        folds: Dict from the id of an operation to the constants that are folded into its biases.
    """
    calls, entries = sizes.coupling.trace.calls_of, sizes.coupling.trace.entries
    if id(operation) in entries:
        given = sizes.of_tensor(entries[id(operation)][0])
        pairs = zip(config["config"]["batch_shape"], given, strict=True)
        shape = [size if size is None else new for size, new in pairs]  # it may be called on others
        return {**config, "config": {**config["config"], "batch_shape": shape}}
    if id(operation) not in calls:
        return config
    rule, arguments = rule_of(operation), dict(config["config"])
    rule.resize(arguments, calls[id(operation)][0], sizes)
    if any(fold.layer.bias is None for fold in (folds or {}).get(id(operation), [])):
        rule.add_bias(arguments, calls[id(operation)][0])
    config = {**config, "config": arguments}
    # A model that is called twice has its operations called twice, at the same node index.
    by_node = {call.node_index: call for call in reversed(calls[id(operation)])}
    nodes = config.get("inbound_nodes", [])
    for index, call in by_node.items():
        if index < len(nodes):  # else it is called so in another model only
            rule.rewrite(nodes[index], call, sizes)
    return config


def _cells_in(model, calls):
    """For the cells of users' classes in a model, by id, a function that resizes a copy."""
    layers = [p for p in _keras.all_layers(model) if id(p) in calls and has_rule(p)]
    return {
        key: resize
        for layer in layers
        for key, resize in rule_of(layer).in_place(calls[id(layer)][0]).items()
    }


def _outputs_of_calls(model, layer, calls, sizes):
    """For each call of a layer in a model its outputs with new sizes, as symbolic tensors."""
    pairs = _keras.nodes(_keras.functional(model))
    nodes = [(node, place) for node, place in pairs if node.operation is layer]
    made = sizes.coupling.trace.inlined.get(id(layer)) or calls.get(id(layer))
    if not nodes or not made or len(made) % len(nodes):  # it is called elsewhere too
        return []
    found = {}
    for (node, place), call in zip(nodes, made, strict=False):
        tensors = zip(node.outputs, call.outputs, strict=True)
        found[place] = [_resized_tensor(symbolic, tensor, sizes) for symbolic, tensor in tensors]
    return [found[place] for place in sorted(found)]


def _resized_tensor(symbolic, tensor, sizes):
    """A symbolic tensor, which may have axes of any size, with the sizes that change."""
    if not isinstance(tensor, Tensor):  # made of weights alone
        return symbolic
    changes = zip(symbolic.shape, tensor.shape, sizes.of_tensor(tensor), strict=True)
    shape = [size if old == new else new for size, old, new in changes]
    return keras.KerasTensor(shape, symbolic.dtype)


def _is_resized(part, calls, sizes):
    """Whether an operation without weights, such as a reshape, is called on other sizes."""
    return any(
        sizes.of_tensor(tensor) != tensor.shape
        for call in calls[id(part)]
        for tensor in (*call.inputs, *call.outputs)
    )


def _resize_weights(part, new, sizes):
    """Gives the weights that a layer holds itself their new shapes."""
    for ours, theirs in _keras.own_variable_pairs(part, new):
        shape = sizes.of_weight(ours)
        if shape != tuple(ours.shape):
            _keras.resize_variable(theirs, np.zeros(shape, "float32"))
