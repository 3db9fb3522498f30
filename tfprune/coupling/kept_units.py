"""Which units a new model has: old ones in their order, and new ones between them."""

from dataclasses import dataclass, field

import numpy as np

from tfprune.coupling.labels import FIXED
from tfprune.coupling.units import Coupling, unit_name

NEW = -1
"""In place of an old index: a unit that the model does not have yet."""


@dataclass(frozen=True, eq=False)
class KeptUnits:
    """What becomes of the units of a model.

    Attributes:
        coupling: The units.
        counts: For each unit how many units of the new model stand in its place: 0 where it goes,
            1 where it stays, more where new ones stand next to it.
        grown: For each unit with new ones next to it the units in its place, in order: its own
            number if it stays, again for each new one that is a copy of it, and `NEW`.
    """

    coupling: Coupling
    counts: np.ndarray
    grown: dict = field(default_factory=dict)

    def expanded(self, units):
        """The units, or `NEW`, which stand where `units` stood."""
        if not self.grown:
            return units[self.counts[units] > 0]
        in_place = [self.grown.get(u, (u,) * int(self.counts[u])) for u in units.tolist()]
        return np.array([unit for each in in_place for unit in each], int)


def keeping(coupling, kept):
    """The kept_units of the units for which a boolean array over units is True."""
    return KeptUnits(coupling, np.asarray(kept).astype(int))


def select(coupling, indices):
    """The kept_units that gives layers the units of some indices; coupled units follow.

    Args:
        coupling: The units, from `tfprune.coupling.couple(model)`.
        indices: Dict from a layer, or a pair of a layer and the name of its units where it makes
            several kinds (`"heads"`), to the old indices that stay, in order, with -1 for each
            new unit. A new unit has the reasons to stand where it does that its neighbour has: it
            belongs to the same set of coupled units.

    Returns:
        A `KeptUnits`. Units of layers that are not named stay.

    Raises:
        ValueError: If a layer makes no such units, the indices are not in order, a unit is pinned
            that should go or get a neighbour, or two layers do not agree on coupled units.

    Example:

    >>> import keras
    >>> from tfprune.coupling import couple
    >>> model = keras.Sequential([
    ...     keras.Input((3,)), keras.layers.Dense(4, name="hidden"), keras.layers.Dense(2)])
    >>> kept_units = select(couple(model), {model.get_layer("hidden"): [0, 2, 3, -1]})
    >>> kept_units.counts.tolist()  # the first is what is fixed, the last two are the outputs
    [1, 1, 0, 1, 2, 1, 1]
    """
    counts, grown, chosen = np.ones(coupling.size, int), {}, {}
    for key, given in indices.items():
        layer, family = key if isinstance(key, tuple) else (key, None)
        units = made_units(coupling, layer, family)
        name = unit_name(layer, family)
        for unit, in_place in _in_place(units.tolist(), _checked(given, len(units), name)):
            if chosen.setdefault(unit, (in_place, name))[0] != in_place:
                raise ValueError(
                    "Coupled units can only go, stay and grow together. "
                    f"Received: {name!r} and {chosen[unit][1]!r} with different indices. "
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
    """The units that a layer makes, in the order of their indices.

    Raises:
        ValueError: If it makes none of that name.
    """
    for piece in coupling.slices:
        if piece.layer is layer and piece.makes and piece.family == family:
            return unique_in_order(coupling.roots[piece.labels])
    families = sorted({str(p.family) for p in coupling.slices if p.layer is layer and p.makes})
    raise ValueError(
        "The layer makes no units of that name. "
        f"Received: layer={getattr(layer, 'name', layer)!r}, units={family!r}. "
        f"It makes: {families or 'none'}."
    )


def unique_in_order(units):
    """Units in the order in which they first stand: gates repeat them."""
    return units[np.sort(np.unique(units, return_index=True)[1])]


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
    """For each unit what stands in its place; new ones join the unit before, or the first."""
    stands = {unit: [] for unit in units}
    place = 0
    for index in given:
        place = place if index == NEW else index
        stands[units[place]].append(NEW if index == NEW else units[index])
    return [(unit, tuple(found)) for unit, found in stands.items()]
