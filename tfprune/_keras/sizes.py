"""The sizes of a layer changed in place: of its variables, and in its attributes.

Private here, and why:

* `_value`, `_shape` and `_initialize` of a variable, which has one shape for life;
* `_path` of a variable, which begins with the name that its layer had when it was made;
* `_build_shapes_dict` of a layer, the shapes it was built for, and `_auto_config`, its arguments,
  both of which a `.keras` file holds;
* `_inbound_nodes`, the calls of a layer.
"""

import copy
import inspect

import keras
import numpy as np
import tensorflow as tf

from tfprune._keras.classes import is_stock
from tfprune._keras.graphs import functional, is_saved_as_graph
from tfprune._keras.layers import all_layers
from tfprune._keras.random_numbers import called_in_inference
from tfprune._keras.variable_values import raw

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


def become(layer, other):
    """Makes a layer of a copy what another one is, for all that refer to it.

    Args:
        layer: The layer. It keeps its calls.
        other: A built layer, not to be used any more.
    """
    kept = {name: vars(layer)[name] for name in ("_inbound_nodes", "_outbound_nodes")}
    layer.__class__ = type(other)
    vars(layer).clear()
    vars(layer).update({**vars(other), **kept})


def whole_numbers(layer):
    """The whole numbers among the attributes of a layer and of the layers inside.

    Returns:
        A dict from each place to the number. A place is the number of the layer, the name of the
        attribute, and indices into the tuples and lists in it.
    """
    return {place: int(number) for place, number in _numbers(layer, int | np.integer)}


def float_numbers(layer):
    """The floating-point numbers among the attributes, by their places: see `whole_numbers`."""
    return {place: float(number) for place, number in _numbers(layer, float | np.floating)}


def plain_attributes(layer):
    """The numbers, strings and booleans among the attributes of a layer and of the layers inside.

    Returns:
        A dict from the number of the layer and the name of the attribute to the value, without the
        attributes that every layer of Keras has, such as its name.
    """
    of_all = vars(keras.layers.Layer())
    return {
        (number, name): value
        for number, part in enumerate(all_layers(layer))
        for name, value in sorted(vars(part).items())
        if name not in of_all and isinstance(value, (bool, int, float, str, type(None)))
    }


def _numbers(layer, kinds):
    for number, part in enumerate(all_layers(layer)):
        for name, value in vars(part).items():
            if name not in _OF_KERAS:
                yield from _collected(value, (number, name), kinds)


def _collected(value, place, kinds):
    if isinstance(value, kinds) and not isinstance(value, bool):
        yield place, value
    elif isinstance(value, tuple | list) and len(value) <= 8 and len(place) < 4:
        for index, item in enumerate(value):
            yield from _collected(item, (*place, index), kinds)


def set_number(layer, place, number):
    """Sets a number at a place, see `whole_numbers` and `float_numbers`.

    The config that Keras makes for a class without `get_config` says the same, if it has an
    argument of that name.
    """
    part, name, *indices = place
    owner = all_layers(layer)[part]
    attributes = vars(owner)
    before = attributes[name]
    attributes[name] = _with(before, indices, number)
    noted = attributes.get("_auto_config")
    if noted is None or indices or before == number:
        return
    argument = inspect.signature(type(owner).__init__).parameters.get(name)
    if argument is not None and noted.config.get(name, argument.default) == before:
        attributes["_auto_config"] = copy.copy(noted)
        attributes["_auto_config"].config = {**noted.config, name: number}


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


def set_input_shape(layer, shape):
    """Lets a layer take inputs of another shape than that it was built for, and say so in files."""
    if layer.input_spec is not None:
        axes = {axis: shape[axis] for axis in layer.input_spec.axes or {}}
        layer.input_spec = copy.copy(layer.input_spec)
        layer.input_spec.axes = axes
    vars(layer)["_build_shapes_dict"] = {"input_shape": tuple(shape)}


def build_again(layer):
    """Lets a layer without weights be built when it is called next, unless it needs no building."""
    if vars(layer).get("_build_shapes_dict") is not None:
        layer.built = False


def set_path(layer):
    """Lets the paths of the weights of a layer begin with its name, if it was renamed."""
    for variable in layer.variables:
        if layer.name not in variable.path.split("/"):
            variable._path = f"{layer.name}/{variable.name}"


def _is_shape(value, shape):
    return isinstance(value, tuple | list) and tuple(value)[1:] == tuple(shape)[1:]


def not_from_config(model, strictly=False):
    """The layers of users' classes in a graph whose configs make weights of other shapes.

    Or other numbers as attributes, with which they compute something else. Such a layer was resized
    in place, and a `.keras` file does not hold it as it is.

    Args:
        model: The model.
        strictly: Whether layers count that have no config at all.
    """
    graph = functional(model)
    if graph is None:
        return [] if _config_makes_sizes(model, not strictly) else [model]
    is_plain = is_stock(type(model)) or is_saved_as_graph(type(model))
    found = [] if is_plain or _config_makes_sizes(model, not strictly) else [model]
    for layer in graph.operations:
        if functional(layer) is not None:
            found += not_from_config(layer, strictly)
        elif isinstance(layer, keras.layers.Layer):
            own = _outermost_own(layer)
            found += [p for p in own if not config_fits(p, _arguments(p), not strictly)]
    return found


def _outermost_own(layer):
    """The layers of users' classes in a layer, or it, but for those inside others of them."""
    found, inside = [], set()
    for part in all_layers(layer):
        if not is_stock(type(part)) and id(part) not in inside:
            found.append(part)
            inside.update(map(id, all_layers(part)))
    return found


def _config_makes_sizes(model, without_config):
    """Whether the config of a subclassed model makes weights of the same shapes.

    Args:
        model: The model.
        without_config: What to return where there is no config, of which Keras tells the user.
    """
    try:
        new = type(model).from_config(model.get_config())
        new.build_from_config(model.get_build_config())
        return [tuple(w.shape) for w in new.weights] == [tuple(w.shape) for w in model.weights]
    except Exception:  # the user's own code may fail in any way
        return without_config


def config_fits(layer, arguments, without_config=True):
    """Whether the config of a layer makes one that computes the same with the same weights.

    Args:
        layer: The layer.
        arguments: Arguments to call it on, positional ones and those by keyword.
        without_config: What to return where there is no config, of which Keras tells the user.

    Returns:
        A boolean.
    """
    if isinstance(layer, keras.Model) or not layer.weights:
        return True
    try:
        serialised = keras.saving.serialize_keras_object(layer)
        new = type(layer).from_config(serialised["config"])
    except Exception:  # the layer's own code may fail in any way
        return without_config
    try:
        if not new.built and serialised.get("build_config"):
            new.build_from_config(serialised["build_config"])
        if not new.built:
            new(*arguments[0], **arguments[1])
        for ours, theirs in zip(layer.weights, new.weights, strict=True):
            if tuple(ours.shape) != tuple(theirs.shape):
                return False
            theirs.assign(raw(ours))
        if not _same_outputs(layer, new, arguments):
            return False
        # The epsilon of a norm shows where inputs are small.
        is_told = float_numbers(layer) == float_numbers(new)
        scales = () if is_told else (1.0, 1e-3, 1e-6)
        return all(_same_outputs(layer, new, arguments, s, 1e-5) for s in scales)
    except Exception:  # the layer's own code may fail in any way
        return False


def _same_outputs(layer, other, arguments, scale=1.0, tolerance=1e-3):
    """Whether two layers give the same, called on the arguments times a number."""
    args, kwargs = keras.tree.map_structure(lambda leaf: _scaled(leaf, scale), arguments)
    ours, theirs = (
        keras.tree.flatten(called_in_inference(each, args, kwargs)) for each in (layer, other)
    )
    return all(
        np.allclose(a, b, rtol=tolerance, atol=0.01 * tolerance * np.max(np.abs(a), initial=0))
        for a, b in zip(map(np.asarray, ours), map(np.asarray, theirs), strict=True)
    )


def _arguments(layer):
    """Arguments for a call of a layer; one in a wrapper has no calls of its own."""
    if layer._inbound_nodes:
        given = layer._inbound_nodes[0].arguments
        given = list(given.args), dict(given.kwargs)
    else:
        shape, *_ = (layer._build_shapes_dict or {"": (None, 1)}).values()
        given = [keras.KerasTensor(shape, layer.input_dtype)], {}
        if hasattr(layer, "state_size"):  # a recurrent cell
            sizes = layer.state_size
            sizes = list(sizes) if isinstance(sizes, (tuple, list)) else [sizes]
            states = [keras.KerasTensor((2, size), layer.compute_dtype) for size in sizes]
            given[0].append(states)
    return keras.tree.map_structure(_example, given)


def _scaled(leaf, scale):
    is_float = keras.ops.is_tensor(leaf) and keras.backend.is_float_dtype(leaf.dtype)
    return leaf * keras.ops.cast(scale, leaf.dtype) if is_float else leaf


def _example(leaf):
    if not isinstance(leaf, keras.KerasTensor):
        return leaf
    shape = [2 if size is None else size for size in leaf.shape]
    draw = np.random.default_rng(0)
    is_float = keras.backend.is_float_dtype(leaf.dtype)  # others may be masks: not all 0
    values = draw.uniform(size=shape) if is_float else draw.integers(0, 2, shape)
    return keras.ops.cast(keras.ops.convert_to_tensor(values), leaf.dtype)
