"""Layer filters, the arguments `only` and `exclude`: layers, their names, or a predicate."""

from collections.abc import Sequence

import keras

from tfprune import _keras
from tfprune.masks.setting import find_layer


def check(only, exclude, predicate):
    """Raises a `ValueError` unless `only` and `exclude` are layer filters.

    Args:
        only, exclude: A layer, the name of one, a sequence of these, a predicate, or `None`.
        predicate: The signature of a predicate, for the error.

    Example:

    >>> check(["dense"], lambda layer: False, "layer -> bool")
    """
    for argument, given in (("only", only), ("exclude", exclude)):
        if not (given is None or _is_predicate(given) or _names_layers(given)):
            raise ValueError(
                f"Argument `{argument}` must be a layer or its name, a sequence of these, or "
                f"a predicate `{predicate}`. Received: {argument}={given!r}."
            )


def predicates(model, only, exclude):
    """The filters `only` and `exclude` as predicates; a nested model stands for its layers.

    Returns:
        Two callables from a layer, and whatever else a predicate is given, to a bool.

    Raises:
        ValueError: If a layer is unknown.

    Example:

    >>> model = keras.Sequential([keras.layers.Dense(2, name="a"), keras.layers.Dense(1)])
    >>> is_included, is_excluded = predicates(model, ["a"], None)
    >>> [is_included(layer) and not is_excluded(layer) for layer in model.layers]
    [True, False]
    """
    is_included = predicate(only, model, "only")
    return is_included, predicate(exclude, model, "exclude", default=False)


def set_predicate(model, only, exclude):
    """A predicate over sets of coupled units: any of their layers is included and none excluded."""
    is_included, is_excluded = predicates(model, only, exclude)
    return lambda unit_set: (
        any(map(is_included, unit_set.layers)) and not any(map(is_excluded, unit_set.layers))
    )


def predicate(given, model, argument, *, default=True, parts=_keras.all_layers):
    """A layer filter as a predicate.

    Args:
        given: A layer, the name of one, a sequence of these, a predicate, or `None`.
        model: The model that the layers belong to.
        argument: The name of the argument, for errors.
        default: The value of the predicate where `given` is `None`.
        parts: Callable from a layer in the sequence to the layers that it stands for.

    Returns:
        A callable that takes a layer, and after it whatever else a predicate is given.

    Raises:
        ValueError: If a layer is unknown.
    """
    if given is None:
        return lambda layer, *more: default
    if _is_predicate(given):
        return given
    selected = {id(p) for each in _listed(given) for p in parts(find_layer(model, each, argument))}
    return lambda layer, *more: id(layer) in selected


def naming(only, model):
    """A predicate over layers: whether `only` names the layer, or one that it is in.

    A predicate as `only` names none.

    Example:

    >>> model = keras.Sequential([keras.layers.Dense(2, name="a"), keras.layers.Dense(1)])
    >>> [naming("a", model)(layer) for layer in model.layers]
    [True, False]
    """
    return predicate(None if _is_predicate(only) else only, model, "only", default=False)


def serialize(only, exclude):
    """Both filters for a config: layers by their names, a predicate as Keras serializes it.

    Example:

    >>> serialize([keras.layers.Dense(2, name="a"), "b"], None)
    {'only': ['a', 'b'], 'exclude': None}
    """
    return {"only": _serialized(only), "exclude": _serialized(exclude)}


def _serialized(given):
    if given is None:
        return None
    if _is_predicate(given):
        return keras.saving.serialize_keras_object(given)
    return [layer if isinstance(layer, str) else layer.name for layer in _listed(given)]


def serialize_keys(argument, by_layer):
    """A dict with layers as keys as it stands in a config: layers by their names.

    Raises:
        ValueError: If it has predicates.

    Example:

    >>> serialize_keys("max_fraction", {keras.layers.Dense(2, name="d"): 0.5})
    {'d': 0.5}
    """
    if any(map(_is_predicate, by_layer)):
        raise ValueError(
            f"Argument `{argument}` with predicates cannot be saved. Name the layers instead. "
            f"Received: {argument}={by_layer!r}."
        )
    return {getattr(key, "name", key): value for key, value in by_layer.items()}


def deserialize(config):
    """A config with `only` and `exclude` deserialized.

    Example:

    >>> deserialize({"target": 0.5, "only": ["a", "b"], "exclude": None})
    {'target': 0.5, 'only': ['a', 'b'], 'exclude': None}
    """
    filters = {name: config.get(name) for name in ("only", "exclude")}
    return config | {
        name: keras.saving.deserialize_keras_object(given) if isinstance(given, dict) else given
        for name, given in filters.items()
    }


class Counterparts:
    """Translates layer filters of a model into those of a copy.

    Args:
        model: The model that the user gave.
        copy: A copy of it, with the same layer names.

    Example:

    >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, name="a")])
    >>> copy = keras.models.clone_model(model)
    >>> Counterparts(model, copy).filter(model.layers)[0] is copy.layers[0]
    True
    """

    def __init__(self, model, copy):
        pairs = list(_keras.layer_pairs(model, copy, models=True))
        self._copies = {id(original): layer for original, layer in pairs}
        self._originals = {id(layer): original for original, layer in pairs}

    def filter(self, given):
        """What `only` or `exclude` says, for the copy; what `check` refuses as it is."""
        if _is_predicate(given):
            return lambda layer, *more: given(self._originals.get(id(layer), layer), *more)
        if not _names_layers(given):
            return given
        return [self._copies.get(id(layer), layer) for layer in _listed(given)]

    def by_layer(self, given):
        """A dict with layers, names or predicates as keys, for the copy; all else as it is."""
        if not isinstance(given, dict):
            return given
        keys = (self.filter(k) if _is_predicate(k) else self.filter([k])[0] for k in given)
        return dict(zip(keys, given.values(), strict=True))


class CounterpartsByName(Counterparts):
    """Translates layer filters of a model into those of another one that lacks some layers.

    Args:
        model: The model that the user gave.
        other: The other one, whose layers have the same names; or the model itself.
        removed: The layers that it lacks; filters that name them say nothing of them.
    """

    def __init__(self, model, other, removed):
        self._model, self._removed = model, set(map(id, removed))
        self._is_same = other is model
        self._copies, by_name = {}, {}
        for layer, name in _keras.named_layers(other):
            by_name.setdefault(name, []).append(layer)
        for layer, name in _keras.named_layers(model):
            if len(by_name.get(name, ())) == 1:
                (self._copies[id(layer)],) = by_name[name]
        originals = {id(layer): layer for layer, _ in _keras.named_layers(model)}
        self._originals = {id(copy): originals[key] for key, copy in self._copies.items()}

    def filter(self, given):
        """What `only` or `exclude` says, for the other model.

        Raises:
            ValueError: If a layer that is named cannot be found in it.
        """
        if self._is_same or not _names_layers(given):
            return super().filter(given)
        layers = [find_layer(self._model, each) for each in _listed(given)]
        left = [layer for layer in layers if id(layer) not in self._removed]
        lost = [layer.name for layer in left if id(layer) not in self._copies]
        if lost:
            raise ValueError(
                "Layers are named that cannot be told apart in the model without blocks. Received: "
                f"{lost}. Choose them by a predicate."
            )
        return super().filter(left)

    def by_layer(self, given):
        """As that of `Counterparts`, without the layers that are gone."""
        if self._is_same or not isinstance(given, dict):
            return given
        found = {}
        for key, value in given.items():
            kept = self.filter(key)
            found.update(dict.fromkeys([kept] if callable(kept) else kept, value))
        return found


def _is_single(given):
    return isinstance(given, (str, keras.Layer))


def _names_layers(given):
    return _is_single(given) or isinstance(given, (Sequence, set, frozenset))


def _is_predicate(given):
    return callable(given) and not isinstance(given, keras.Layer)


def _listed(given):
    return [given] if _is_single(given) else given
