"""A copy of any Keras model, made without constructors and without configs."""

from dataclasses import dataclass, field

import keras

from tfprune import _keras


@dataclass(frozen=True)
class Copy:
    """What `copy_model` returns.

    Attributes:
        model: The copy.
        variables: A pair of a variable and its counterpart for every variable that was copied:
            weights, seeds, states, metrics and the slots of the optimizer.
        layers: The counterpart of every layer that was copied, by the layer itself.
    """

    model: keras.Model
    variables: tuple = field(repr=False)
    layers: dict = field(repr=False)


def copy_model(model, exchange=None):
    """Copies a model with everything it holds; the two share no variable.

    Layers, variables, the graph, the optimizer with its slots, losses, metrics and seeds are copied
    object by object, each once, so what is tied stays tied. Nothing goes through `__init__`,
    `get_config` or `build`, and no layer is called. The values of a variable are copied when one of
    the two is first written to, so a copy that is not trained takes hardly any memory.

    Args:
        model: Any Keras model: Functional, Sequential, subclassed, nested, or a task of KerasHub.
        exchange: Function of a layer of the copy, called on each of them once all are there, a
            layer before the layers in it. It may change the layer in place, as
            `tfprune.masks.mask_in_place` does.

    Returns:
        A `Copy`. Its model has the class of the model given, and computes the same bit for bit.

    Raises:
        ValueError: If a variable of the model could not be copied.

    Example:

    >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    >>> copy = copy_model(model)
    >>> copy.layers[model.layers[0]] is copy.model.layers[0]
    True
    >>> [(old is new, old.path == new.path) for old, new in copy.variables]
    [(False, True), (False, True)]
    """
    pairs = _keras.copied_objects(model)
    copy = _as_copy(model, pairs[0][1], pairs)
    if exchange is not None:
        in_order = dict.fromkeys([*_keras.all_layers(copy.model), *copy.layers.values()])
        for layer in in_order:
            exchange(layer)
    return copy


def in_double_precision(model):
    """Copies a model as `copy_model` does; the copy computes in float64, with the same weights.

    Example:

    >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    >>> double = in_double_precision(model).model
    >>> double(keras.ops.ones((1, 3))).dtype, double.weights[0].dtype
    (tf.float64, 'float64')
    """
    return _as_copy(model, *_keras.in_precision(model, "float64"))


def _as_copy(model, new, pairs):
    variables = tuple(pair for pair in pairs if isinstance(pair[0], keras.Variable))
    _check(model, new, variables)
    return Copy(
        model=new,
        variables=variables,
        layers={old: layer for old, layer in pairs if isinstance(old, keras.layers.Layer)},
    )


def _check(model, copy, pairs):
    """Raises an error unless each variable of a model has one counterpart, in its copy alone."""
    counterparts = {id(old): id(new) for old, new in pairs}
    ours = [counterparts.get(id(variable)) for variable in model.variables]
    theirs = [id(variable) for variable in copy.variables]
    shared = {id(variable) for variable in model.variables}.intersection(theirs)
    if shared or ours != theirs or len(set(counterparts.values())) < len(counterparts):
        paths = [variable.path for variable in copy.variables if id(variable) in shared]
        raise ValueError(
            "The model cannot be copied, because it holds variables in a way that is not known. "
            f"Received: model={model.name!r} ({type(model).__name__}) with {len(ours)} variables; "
            f"its copy has {len(theirs)}, of which it shares {paths}."
        )
