"""Composite layers of users' classes that stay the objects they are, resized on their copies.

The layers inside that have rules are made anew from their edited configs, and take the places of
those that the copy has. The weights of users' classes get new shapes. Which whole numbers among the
attributes are sizes that have to follow is found in `settled_numbers`.
"""

import keras
import numpy as np

from tfprune import _keras
from tfprune.coupling.calls import Tensor
from tfprune.coupling.rules import has_rule, rule_of


def resize_in_place(layer, copy, edited, rebuilt, calls, sizes):
    """Resizes the copy of a composite layer.

    Args:
        layer: The layer, which was opened when the model was traced.
        copy: Its copy without masks, changed in place. Weights get the new shapes.
        edited: Function of a serialised layer and the layer, which returns it with its new sizes.
        rebuilt: Function of a model inside, which returns it with its new sizes.
        calls: For each operation, by id, its calls.
        sizes: The `Sizes` after the change.
    """
    parts = list(zip(_keras.all_layers(layer), _keras.all_layers(copy), strict=True))
    inside = set()
    for part, new in parts:
        if id(part) in inside:
            continue
        if _keras.functional(part) is not None:
            inside.update(map(id, _keras.all_layers(part)))
            _keras.become(new, rebuilt(part))
        elif id(part) in calls and has_rule(part):
            inside.update(map(id, _keras.all_layers(part)))
            if part.weights or _is_resized(part, calls, sizes):
                _make_anew(part, new, edited, calls[id(part)][0], sizes)
        elif id(part) in calls:
            rule_of(part).resize_in_place(new, calls[id(part)][0], sizes)
        else:
            _resize_weights(part, new, sizes)
    call = sizes.coupling.trace.in_place[id(layer)]
    _keras.forget_input_shape(
        copy, [(tensor.shape, sizes.of_tensor(tensor)) for tensor in call.inputs]
    )


def _make_anew(part, new, edited, call, sizes):
    """Puts a layer with new sizes in the place of one that the copy has."""
    custom_objects = _keras.custom_objects_of(_keras.all_layers(part))
    config = _keras.without_shapes(keras.saving.serialize_keras_object(part))
    config = edited(_keras.with_functions(config, part, custom_objects), part)
    made = keras.saving.deserialize_keras_object(
        config, custom_objects=custom_objects, safe_mode=False
    )

    def value(leaf):
        if not isinstance(leaf, Tensor):
            return leaf
        return keras.KerasTensor(sizes.of_tensor(leaf), leaf.dtype)

    args, kwargs = keras.tree.map_structure(value, (list(call.args), dict(call.kwargs)))
    made(*args, **kwargs)
    _keras.become(new, made)


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
