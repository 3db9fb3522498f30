"""The least number of units that each layer keeps: `min_units` and `max_fraction`."""

import numpy as np

from tfprune._tools.checks import check_integer, is_integer, is_number
from tfprune.masks import layer_filter


def check(max_fraction, round_to, min_units):
    """Raises a `ValueError` unless `max_fraction`, `round_to` and `min_units` are in range.

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
    if round_to not in (None, "auto") and not (is_integer(round_to) and round_to >= 1):
        raise ValueError(
            "Argument `round_to` must be a positive integer, of which layers keep a multiple, "
            f"'auto' or None. Received: round_to={round_to!r}."
        )
    check_integer("min_units", min_units)


def least_kept(units, max_fraction=1.0):
    """The least number of units that each set keeps.

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
    caps = np.array(_caps(units, max_fraction), float)
    kept = np.ceil((1 - caps) * sizes - 1e-9).astype(int)
    return np.maximum(kept, np.minimum(units.min_units, sizes))


def _caps(units, max_fraction):
    """The most that may be pruned of each set."""
    if not isinstance(max_fraction, dict):
        return [max_fraction] * len(units.sets)
    layers = [layer for unit_set in units.sets for layer in unit_set.layers]
    caps = {id(layer): 1.0 for layer in layers}
    for key, value in max_fraction.items():
        matches = layer_filter.predicate(key, units.model, "max_fraction")
        found = [id(layer) for layer in layers if matches(layer)]
        if not found:
            raise ValueError(
                "Argument `max_fraction` names a layer none of whose units can be pruned. "
                f"Received: {getattr(key, 'name', key)!r}. Layers whose units can be: "
                f"{[layer.name for layer in layers]}."
            )
        caps |= dict.fromkeys(found, value)
    return [min(caps[id(layer)] for layer in unit_set.layers) for unit_set in units.sets]
