"""Which units stand in a layer then, as lists of indices, and back."""

import numpy as np

from tfprune.coupling.kept_units import NEW, KeptUnits, made_units, unique_in_order
from tfprune.surgery.lookup import find


def made_only_by(coupling, layers):
    """The units that go with layers: nobody else makes them."""
    gone = [id(layer) for layer in layers]
    units = [s.units for s in coupling.sets if all(id(layer) in gone for layer in s.layers)]
    return np.concatenate([np.empty(0, int), *units])


def makers(coupling):
    """Layers, families and the units they make."""
    seen = set()
    for piece in coupling.slices:
        key = (id(piece.layer), piece.family)
        if piece.makes and key not in seen:
            seen.add(key)
            yield piece.layer, piece.family, unique_in_order(coupling.roots[piece.labels])


def standing(kept_units, units):
    """What stands in the place of units then, in order: their numbers, or `NEW`."""
    if kept_units.grown:
        return kept_units.expanded(units).tolist()
    return units[kept_units.counts[units] > 0].tolist()


def selected(coupling, model, entries):
    """The kept_units that entries of a dict stand for: layer, family, how many units, indices."""
    counts, grown = np.ones(coupling.size, int), {}
    for name, family, size, kept in entries:
        units = made_units(coupling, find(model, name)[1], family)
        if len(units) != size:
            raise ValueError(
                "The plan was made for a model with other sizes. "
                f"Received: layer={name!r} with {len(units)} units, where there were {size}."
            )
        in_place, place = {unit: [] for unit in units.tolist()}, 0
        for index in kept:
            place = place if index == NEW else index
            in_place[int(units[place])].append(NEW if index == NEW else int(units[index]))
        for unit, stands in in_place.items():
            counts[unit] = len(stands)
            if stands not in ([], [unit]):
                grown[unit] = tuple(stands)
    return KeptUnits(coupling, counts, grown)
