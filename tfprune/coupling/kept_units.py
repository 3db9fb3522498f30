"""Kept units: which units of a model a new model keeps, and where new units are inserted."""

from dataclasses import dataclass, field

import numpy as np

from tfprune.coupling.labels import FIXED
from tfprune.coupling.units import Coupling, unique_in_order, unit_name

NEW = -1
"""Stands in lists of indices for a unit that the model does not have yet."""


@dataclass(frozen=True, eq=False)
class KeptUnits:
    """The units of a model that a new model keeps, and the units that are added to them.

    Made by `select` and `keeping`.

    Attributes:
        coupling: The `Coupling` of the model.
        counts: Integer array over units: how many units of the new model take the place of each.
            0 if it is removed, 1 if it is kept, more if new units are inserted next to it.
        grown: Dict from each unit with new units next to it to the units that take its place, in
            order: its own number if it is kept, again for each copy of it, and `NEW`.
        dead: The ids of layers with groups that no output needs, and that the new model does not
            have. Their groups may keep different numbers of units.
    """

    coupling: Coupling
    counts: np.ndarray
    grown: dict = field(default_factory=dict)
    dead: frozenset = frozenset()

    def expanded(self, units):
        """Returns the array of units, or `NEW`, that take the place of an array of units."""
        if not self.grown:
            return units[self.counts[units] > 0]
        in_place = [self.grown.get(u, (u,) * int(self.counts[u])) for u in units.tolist()]
        return np.array([unit for each in in_place for unit in each], int)


def keeping(coupling, kept, dead=frozenset()):
    """Returns the `KeptUnits` that keep units where a boolean array is True.

    Args:
        coupling: The `Coupling` of the model.
        kept: Boolean array of shape `(coupling.size,)`, one element for each unit.
        dead: See `KeptUnits`.

    Returns:
        A `KeptUnits` without new units.
    """
    return KeptUnits(coupling, np.asarray(kept).astype(int), dead=dead)


def select(coupling, indices):
    """Returns the `KeptUnits` for indices chosen layer by layer; coupled units follow.

    Use it with `rebuild` to build a model of chosen units.

    Args:
        coupling: The units, from `tfprune.coupling.couple(model)`.
        indices: Dict from a layer to the old indices that are kept, in order, with -1 for each new
            unit. A layer that makes several families of units is given as a pair with the name of
            the family: `(layer, "heads")`. A new unit is coupled as the unit before it is.

    Returns:
        A `KeptUnits`. Units of layers that are not named are kept.

    Raises:
        ValueError: If a layer makes no such units, the indices are not in order, a pinned unit
            would be removed or get a new neighbour, or two layers disagree on coupled units.

    Example:

    >>> import keras
    >>> from tfprune.coupling import couple
    >>> model = keras.Sequential([
    ...     keras.Input((3,)), keras.layers.Dense(4, name="hidden"), keras.layers.Dense(2)])
    >>> kept_units = select(couple(model), {model.get_layer("hidden"): [0, 2, 3, -1]})
    >>> kept_units.counts.tolist()  # first what is fixed, last the two outputs
    [1, 1, 0, 1, 2, 1, 1]
    """
    counts, grown, selected = np.ones(coupling.size, int), {}, {}
    for key, given in indices.items():
        layer, family = key if isinstance(key, tuple) else (key, None)
        units = made_units(coupling, layer, family)
        name = unit_name(layer, family)
        for unit, in_place in _in_place(units.tolist(), _checked(given, len(units), name)):
            if selected.setdefault(unit, (in_place, name))[0] != in_place:
                raise ValueError(
                    "Coupled units can only go, stay and grow together. "
                    f"Received: {name!r} and {selected[unit][1]!r} with different indices. "
                    "Name one of the layers; the other follows."
                )
            if in_place != (unit,) and (unit == FIXED or unit in coupling.pins):
                raise ValueError(
                    "A unit of the layer cannot go or get new neighbours. "
                    f"Received: layer={name!r}, index={units.tolist().index(unit)}. Reason: "
                    f"{coupling.pins.get(unit, 'its place is fixed')}."
                )
            counts[unit] = len(in_place)
            if NEW in in_place:
                grown[unit] = in_place
    return KeptUnits(coupling, counts, grown)


def made_units(coupling, layer, family=None):
    """Returns the units that a layer makes, in the order of their indices.

    Raises:
        ValueError: If it makes none of that name.
    """
    for piece in coupling.slices:
        if piece.layer is layer and piece.makes and piece.family == family:
            return unique_in_order(coupling.roots[piece.labels])
    made = {p.family for p in coupling.slices if p.layer is layer and p.makes}
    families = sorted(made - {None}) + ["those of its output, which have no name"] * (None in made)
    raise ValueError(
        "The layer makes no units of that name. "
        f"Received: layer={getattr(layer, 'name', layer)!r}, units={family!r}. "
        f"It makes: {', '.join(families) or 'none'}."
    )


def _checked(given, size, name):
    given = [int(index) for index in given]
    old = [index for index in given if index != NEW]
    if old != sorted(set(old)) or not given or any(not 0 <= index < size for index in old):
        raise ValueError(
            f"The indices of kept units must be in order, each once, from 0 to {size - 1}, and -1 "
            f"for a new unit. Received: layer={name!r}, indices={given}."
        )
    return given


def _in_place(units, given):
    """For each unit what takes its place; new units join the unit before them, or the first."""
    found = {unit: [] for unit in units}
    place = 0
    for index in given:
        place = place if index == NEW else index
        found[units[place]].append(NEW if index == NEW else units[index])
    return [(unit, tuple(in_place)) for unit, in_place in found.items()]
