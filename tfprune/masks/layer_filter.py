"""What `only` and `exclude` say: a sequence of layers or layer names, or a predicate."""

from collections.abc import Sequence

import keras

from tfprune.masks.setting import find_layer


def check(only, exclude, predicate):
    """Raises a `ValueError` unless `only` and `exclude` can choose layers.

    Args:
        only, exclude: A sequence of layers or layer names, a predicate, or `None`.
        predicate: The signature of a predicate, for the error.

    Example:

    >>> check(["dense"], lambda layer: False, "layer -> bool")
    """
    for argument, given in (("only", only), ("exclude", exclude)):
        is_predicate = callable(given) and not isinstance(given, keras.Layer)
        is_sequence = isinstance(given, (Sequence, set, frozenset)) and not isinstance(given, str)
        if given is not None and not is_predicate and not is_sequence:
            raise ValueError(
                f"Argument `{argument}` must be a sequence of layers or layer names, or a "
                f"predicate `{predicate}`. Received: {argument}={given!r}."
            )


def chooser(given, model, *, default, parts=lambda layer: [layer]):
    """A predicate out of what `only` or `exclude` says.

    Args:
        given: A sequence of layers or layer names, a predicate, or `None`.
        model: The model that the layers belong to.
        default: What the predicate says of everything where `given` is `None`.
        parts: Callable, from a layer in the sequence to the layers that are meant by it.

    Returns:
        A callable that takes a layer, and after it whatever else a predicate is given.

    Raises:
        ValueError: If a layer is unknown.

    Example:

    >>> model = keras.Sequential([keras.layers.Dense(2, name="a"), keras.layers.Dense(1)])
    >>> is_chosen = chooser(["a"], model, default=True)
    >>> [is_chosen(layer) for layer in model.layers]
    [True, False]
    """
    if given is None:
        return lambda layer, *more: default
    if callable(given):
        return given
    chosen = {id(part) for layer in given for part in parts(find_layer(model, layer))}
    return lambda layer, *more: id(layer) in chosen


def serialize(only, exclude):
    """Both as they stand in a config: layers by their names, a predicate as Keras has it.

    Example:

    >>> serialize([keras.layers.Dense(2, name="a"), "b"], None)
    {'only': ['a', 'b'], 'exclude': None}
    """
    return {"only": _serialized(only), "exclude": _serialized(exclude)}


def _serialized(given):
    if given is None:
        return None
    if callable(given):
        return keras.saving.serialize_keras_object(given)
    return [layer if isinstance(layer, str) else layer.name for layer in given]


def deserialize(config):
    """A config in which `only` and `exclude` are again what can be given as such.

    Example:

    >>> deserialize({"target": 0.5, "only": ["a", "b"], "exclude": None})
    {'target': 0.5, 'only': ['a', 'b'], 'exclude': None}
    """
    return {
        **config,
        "only": _deserialized(config.get("only")),
        "exclude": _deserialized(config.get("exclude")),
    }


def _deserialized(given):
    return keras.saving.deserialize_keras_object(given) if isinstance(given, dict) else given
