"""Units of layers before and after an edit as lists of indices, and `KeptUnits` from such lists."""

import numpy as np

from tfprune.coupling.kept_units import NEW, KeptUnits, made_units
from tfprune.coupling.labels import FIXED
from tfprune.coupling.units import unique_in_order
from tfprune.surgery.lookup import find_operation


def units_made_only_by(coupling, layers):
    """The units that only these layers make, which go with them."""
    ids = [id(layer) for layer in layers]
    units = [s.units for s in coupling.sets if all(id(layer) in ids for layer in s.layers)]
    return np.concatenate([np.empty(0, int), *units])


def units_by_layer(coupling):
    """Yields the layers that make units, each with the name of its units and the units."""
    seen = set()
    for piece in coupling.slices:
        key = (id(piece.layer), piece.family)
        if piece.makes and key not in seen:
            seen.add(key)
            yield piece.layer, piece.family, unique_in_order(coupling.roots[piece.labels])


def units_after(kept_units, units):
    """The units that take the place of units, in order; `NEW` for those that are added."""
    if kept_units.grown:
        return kept_units.expanded(units).tolist()
    return units[kept_units.counts[units] > 0].tolist()


def kept_units_from(coupling, model, entries, outputs=()):
    """`KeptUnits` from entries of `Plan.to_dict`.

    An entry has the layer, the name of its units, how many there were, and the kept indices. Where
    `NEW` is among these, it has for each unit how many of them stand in its place.

    `outputs` are pairs of an operation that counts as the maker of its output, and its units.
    """
    counts, grown = np.ones(coupling.size, int), {}
    for name, family, size, kept, *places in entries:
        _, operation = find_operation(model, name)
        made = [units for maker, units in outputs if maker is operation]
        units = made[0] if made else made_units(coupling, operation, family)
        if len(units) != size:
            raise ValueError(
                "The plan was made for a model with other sizes. "
                f"Received: layer={name!r} with {len(units)} units, where there were {size}."
            )
        sizes = places[0] if places else np.bincount(kept, minlength=size)
        kept = [NEW if index == NEW else int(units[index]) for index in kept]
        ends = np.cumsum(sizes)
        for unit, start, end in zip(units.tolist(), ends - sizes, ends, strict=True):
            new = kept[start:end]
            if unit == FIXED:
                continue
            counts[unit] = len(new)
            if new not in ([], [unit]):
                grown[unit] = tuple(new)
    return KeptUnits(coupling, counts, grown)
