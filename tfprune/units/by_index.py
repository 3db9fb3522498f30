"""Units that are named by the index they have in a layer."""

import dataclasses

import numpy as np

from tfprune.coupling.groups import equal_count_constraints
from tfprune.coupling.labels import FIXED
from tfprune.coupling.units import unique_in_order
from tfprune.masks.setting import find_layer


def select_by_index(units, given):
    """The units to prune, where the user names them: a unit goes with all that it is coupled with.

    Args:
        units: `PrunableUnits`.
        given: Dict from a layer, or its name, to what indexes an array of its units.

    Returns:
        A boolean array over all units of the coupling.

    Raises:
        ValueError: If there is no such layer or unit, or a unit cannot go, with the reason.
    """
    coupling = units.coupling
    dead = np.zeros(coupling.size, bool)
    can_go = np.zeros(coupling.size, bool)
    for unit_set in units.sets:
        can_go[unit_set.units] = True
    frozen = units.frozen()
    for key, indices in given.items():
        name, of_layer = units_of(units.model, coupling, key)
        for index in _indices(name, indices, len(of_layer)):
            unit = int(of_layer[index])
            if not can_go[unit] or frozen[unit] or unit in coupling.pins:
                why = "it has frozen elements" if frozen[unit] else _why_it_stays(units, unit)
                raise ValueError(
                    f"A unit cannot be pruned: {why}. Received: layer={name!r}, index={index}."
                )
            dead[unit] = True
    _check_what_remains(units, dead | units.pruned(), given)
    return dead


def layers_of(model, given):
    """The layers that the keys of `units` name.

    Raises:
        ValueError: If it is no dict, or a key names no layer.
    """
    if not isinstance(given, dict) or not given:
        raise ValueError(
            "Argument `units` must be a dict from layers or their names to indices of units. "
            f"Received: units={given!r}."
        )
    return [_layer_and_family(model, key)[0] for key in given]


def units_of(model, coupling, key):
    """The units of a layer in the order of their indices, with the name that they have."""
    layer, family = _layer_and_family(model, key)
    name = layer.name if family is None else f"{layer.name}/{family}"
    for piece in coupling.slices:
        if piece.layer is layer and piece.family == family and piece.makes:
            return name, unique_in_order(coupling.roots[piece.labels].reshape(-1))
    families = {p.family for p in coupling.slices if p.layer is layer and p.makes and p.family}
    hint = f" It makes {sorted(f'{layer.name}/{each}' for each in families)}." if families else ""
    raise ValueError(f"The layer makes no units. Received: layer={name!r}.{hint}")


def _layer_and_family(model, key):
    try:
        return find_layer(model, key, "units"), None
    except ValueError:
        name, slash, family = key.rpartition("/") if isinstance(key, str) else ("", "", "")
        if not slash:
            raise
        return find_layer(model, name, "units"), family


def _indices(name, given, size):
    given = list(given) if isinstance(given, tuple) else given
    try:
        return np.atleast_1d(np.arange(size)[given]).ravel().tolist()
    except (IndexError, TypeError, ValueError) as error:
        raise ValueError(
            "Argument `units` must index the units of a layer. "
            f"Received: layer={name!r}, which has {size}, and {given!r} ({error})."
        ) from error


def _why_it_stays(units, unit):
    if unit in units.coupling.pins:
        return units.coupling.pins[unit]
    if unit == FIXED:
        return "its place in the layer's output is fixed"
    for reason, names in units.skipped.items():
        sets = [s for s in units.coupling.sets if s.name in names and unit in s.units]
        if sets:
            return f"{sets[0].name!r}: {reason}"
    return "the layers that make it cannot lose units"


def _check_what_remains(units, dead, given):
    for unit_set in units.sets:
        if dead[unit_set.units].all():
            raise ValueError(
                "A layer needs at least one unit. "
                f"Received: units={given!r}, which prunes all of {unit_set.name!r}."
            )
    for grouping in units.coupling.groupings:
        alone = dataclasses.replace(units.coupling, groupings=(grouping,))
        for groups in equal_count_constraints(alone, dead):
            left = (~dead[groups]).sum(axis=1).tolist()
            if dead[groups].any() and len(set(left)) > 1:
                raise ValueError(
                    f"The groups of {grouping.layer.name!r} must keep equally many units. "
                    f"Received: units={given!r}, which leaves {left} in the groups."
                )
