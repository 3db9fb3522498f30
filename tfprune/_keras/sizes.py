"""The sizes of a layer changed in place: of its variables, and in its attributes.

Private here, and why:

* `_value`, `_shape` and `_initialize` of a variable, which has one shape for life;
* `_build_shapes_dict` of a layer, the shapes it was built for, and `_auto_config`, its arguments,
  both of which a `.keras` file holds;
* `_inbound_nodes`, the calls of a layer.
"""

import copy

import keras
import numpy as np
import tensorflow as tf

from tfprune._keras.classes import is_stock
from tfprune._keras.graphs import all_operations, functional
from tfprune._keras.layers import all_layers
from tfprune._keras.variables import raw

_OF_KERAS = ("_build_shapes_dict", "input_spec", "_losses", "_loss_ids")


def resize_variable(variable, value):
    """Gives a variable another value, of any shape."""
    value = tf.cast(tf.convert_to_tensor(value), variable.dtype)
    if tuple(value.shape) == tuple(variable.shape):
        variable.assign(value)
        return
    with tf.init_scope():
        variable._value = None
        variable._shape = tuple(value.shape)
        variable._initialize(value)


def whole_numbers(layer):
    """The whole numbers among the attributes of a layer and of the layers inside.

    Returns:
        A dict from each place to the number. A place is the number of the layer, the name of the
        attribute, and indices into the tuples and lists in it.
    """
    found = {}
    for number, part in enumerate(all_layers(layer)):
        for name, value in vars(part).items():
            if name not in _OF_KERAS:
                _collect(value, (number, name), found)
    return found


def _collect(value, place, found):
    is_number = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if is_number:
        found[place] = int(value)
    elif isinstance(value, tuple | list) and len(value) <= 8 and len(place) < 4:
        for index, item in enumerate(value):
            _collect(item, (*place, index), found)


def set_whole_number(layer, place, number):
    """Sets a number at a place, see `whole_numbers`.

    The config that Keras makes for a class without `get_config` says the same, if it has an
    argument of that name.
    """
    part, name, *indices = place
    attributes = vars(all_layers(layer)[part])
    before = attributes[name]
    attributes[name] = _with(before, indices, number)
    config = getattr(attributes.get("_auto_config"), "config", {})
    if not indices and config.get(name) == before != number:
        attributes["_auto_config"] = copy.copy(attributes["_auto_config"])
        attributes["_auto_config"].config = {**config, name: number}


def _with(value, indices, number):
    if not indices:
        return number
    first, *rest = indices
    items = list(value)
    items[first] = _with(items[first], rest, number)
    if isinstance(value, tuple):
        return type(value)(*items) if hasattr(value, "_fields") else tuple(items)
    value[first] = items[first]
    return value


def forget_input_shape(layer, shapes=None):
    """Lets a layer take inputs of other shapes than those it was built for.

    Args:
        layer: The layer.
        shapes: Pairs of an input shape it was built for and the one in its place.
    """
    for part in all_layers(layer):
        part.input_spec = None
    built_for = vars(layer).get("_build_shapes_dict")
    if built_for and shapes:
        vars(layer)["_build_shapes_dict"] = {
            name: next((new for old, new in shapes if _is_shape(shape, old)), shape)
            for name, shape in built_for.items()
        }


def _is_shape(value, shape):
    return isinstance(value, tuple | list) and tuple(value)[1:] == tuple(shape)[1:]


def not_from_config(model):
    """The layers of users' classes in a graph whose configs make weights of other shapes.

    Such a layer was resized in place, and a `.keras` file with it cannot be loaded.
    """
    if functional(model) is None:  # a file holds the config of the model itself
        return []
    layers = [o for o in all_operations(model) if isinstance(o, keras.layers.Layer)]
    return [layer for layer in layers if not is_stock(type(layer)) and not _config_fits(layer)]


def _config_fits(layer):
    if isinstance(layer, keras.Model) or not layer.weights:
        return True
    try:
        serialised = keras.saving.serialize_keras_object(layer)
        new = type(layer).from_config(serialised["config"])
    except Exception:  # the layer has no config, of which Keras tells the user itself
        return True
    try:
        if not new.built and serialised.get("build_config"):
            new.build_from_config(serialised["build_config"])
        if not new.built:
            return True
        for ours, theirs in zip(layer.weights, new.weights, strict=True):
            if tuple(ours.shape) != tuple(theirs.shape):
                return False
            theirs.assign(raw(ours))
        return _same_outputs(layer, new)
    except Exception:  # the layer's own code may fail in any way
        return False


def _same_outputs(layer, other):
    """Whether two layers give the same on random numbers, called as the first is in its model."""
    args, kwargs = keras.tree.map_structure(
        lambda leaf: _example(leaf) if isinstance(leaf, keras.KerasTensor) else leaf,
        _arguments(layer),
    )
    ours, theirs = (keras.tree.flatten(each(*args, **kwargs)) for each in (layer, other))
    return all(np.allclose(a, b, rtol=1e-3, atol=1e-5) for a, b in zip(ours, theirs, strict=True))


def _arguments(layer):
    """The arguments of a call of a layer; one in a wrapper has no calls of its own."""
    if layer._inbound_nodes:
        arguments = layer._inbound_nodes[0].arguments
        return list(arguments.args), dict(arguments.kwargs)
    (shape,) = layer._build_shapes_dict.values()
    return [keras.KerasTensor(shape, layer.input_dtype)], {}


def _example(tensor):
    shape = [2 if size is None else size for size in tensor.shape]
    values = np.random.default_rng(0).uniform(size=shape)
    return keras.ops.cast(keras.ops.convert_to_tensor(values), tensor.dtype)
