"""How many units each layer keeps at least: `min_units` and `max_fraction`."""

import keras
import numpy as np

from tfprune import _keras
from tfprune._tools.checks import is_integer, is_number
from tfprune.masks.setting import find_layer


def check(max_fraction, round_to, min_units):
    """Raises a `ValueError` unless the arguments can be what they are called.

    Example:

    >>> check({"conv": 0.5}, 8, 1)
    """
    each = max_fraction.items() if isinstance(max_fraction, dict) else [(None, max_fraction)]
    for key, value in each:
        if not is_number(value) or not 0 <= value <= 1:
            of = "" if key is None else f" of {getattr(key, 'name', key)!r}"
            raise ValueError(
                "Argument `max_fraction` must be a number from 0 to 1, the most that may be pruned "
                f"of a layer, or a dict from layers to such numbers. Received: {value!r}{of}."
            )
    if round_to is not None and not (is_integer(round_to) and round_to >= 1):
        raise ValueError(
            "Argument `round_to` must be a positive integer, of which layers keep a multiple, or "
            f"None. Received: round_to={round_to!r}."
        )
    if not (is_integer(min_units) and min_units >= 1):
        raise ValueError(
            f"Argument `min_units` must be a positive integer. Received: min_units={min_units!r}."
        )


def least_kept(units, max_fraction=1.0):
    """How many units each set keeps at least.

        least = max(min_units, ceil((1 - max_fraction) size))

    Args:
        units: `PrunableUnits`.
        max_fraction: Float from 0 to 1, or a dict from a layer, its name, a nested model or a
            predicate `layer -> bool` to one; later keys win over earlier ones, and layers that
            none names may lose all. A set that several layers make has the lowest of theirs.

    Returns:
        An array of integers, one for each set of `units`.

    Raises:
        ValueError: If a key names no layer whose units can be pruned.
    """
    sizes = np.array([len(unit_set.units) for unit_set in units.sets])
    caps = np.array([_cap(unit_set, units.model, max_fraction) for unit_set in units.sets], float)
    if isinstance(max_fraction, dict):
        _check_keys(units, max_fraction)
    kept = np.ceil((1 - caps) * sizes - 1e-9).astype(int)
    return np.maximum(kept, np.minimum(units.min_units, sizes))


def _cap(unit_set, model, max_fraction):
    if not isinstance(max_fraction, dict):
        return max_fraction
    caps = []
    for layer in unit_set.layers:
        found = [value for key, value in max_fraction.items() if _means(key, layer, model)]
        caps.append(found[-1] if found else 1.0)
    return min(caps)


def _check_keys(units, max_fraction):
    layers = [layer for unit_set in units.sets for layer in unit_set.layers]
    for key in max_fraction:
        if not any(_means(key, layer, units.model) for layer in layers):
            raise ValueError(
                "Argument `max_fraction` names a layer none of whose units can be pruned. "
                f"Received: {getattr(key, 'name', key)!r}. Layers whose units can be: "
                f"{[layer.name for layer in layers]}."
            )


def _means(key, layer, model):
    if callable(key) and not isinstance(key, keras.Layer):
        return bool(key(layer))
    return any(part is layer for part in _keras.all_layers(find_layer(model, key)))


def serialize(max_fraction):
    """`max_fraction` as it stands in a config: layers by their names.

    Raises:
        ValueError: If it has predicates.

    Example:

    >>> serialize({keras.layers.Dense(2, name="d"): 0.5})
    {'d': 0.5}
    """
    if not isinstance(max_fraction, dict):
        return max_fraction
    if any(callable(key) and not isinstance(key, keras.Layer) for key in max_fraction):
        raise ValueError(
            "A `max_fraction` with predicates cannot be saved. Name the layers instead. "
            f"Received: max_fraction={max_fraction!r}."
        )
    return {getattr(key, "name", key): value for key, value in max_fraction.items()}
