"""Index maps: for each index of a new weight, the index in the old weight that it came from.

Where a model only shrinks, its labels say which indices are kept (`kept_index_maps`). Where units
are added, the new model is analysed as the old one was, and units are matched by the layers that
make them (`matched_index_maps`); where operations are inserted, removed or connected, likewise
(`carried_index_maps`). So no operation that moves data has to be inverted.
"""

import keras
import numpy as np

from tfprune import _keras
from tfprune.coupling.kept_units import NEW
from tfprune.coupling.labels import FIXED, placed
from tfprune.coupling.units import unique_in_order


def kept_index_maps(kept_units):
    """Returns the kept indices of every weight, for `KeptUnits` without new units.

    Returns:
        For each old variable, by id, a dict from each axis that changes to the old indices. These
        are one-dimensional. Where units differ along other axes too, they have the variable's rank
        and come last: they apply to the array that is cut along the axes before.

    Raises:
        ValueError: If the groups of a layer would keep different numbers of channels.
    """
    coupling, indices, uneven = kept_units.coupling, {}, []
    for piece in coupling.slices:
        stays = kept_units.counts[coupling.roots[piece.labels]] > 0
        if stays.ndim > 1:
            uneven.append((piece, stays))
        elif not stays.all():
            indices.setdefault(id(piece.variable), {})[piece.axis] = np.flatnonzero(stays)
    for piece, stays in uneven:
        selected = indices.setdefault(id(piece.variable), {})
        for axis, kept in selected.items():
            stays = np.take(stays, kept, axis) if stays.shape[axis] != 1 else stays
        if not stays.all():
            order = np.argsort(~stays, axis=piece.axis, kind="stable")
            count = equal_count(stays, piece, kept_units.dead)
            selected[piece.axis] = np.take(order, range(count), axis=piece.axis)
    return indices


def equal_count(counts, piece, dead):
    """The sum of counts along the axis of a slice, which must not depend on the other axes.

    For layers that are `dead`, by id, it is the largest, 0 if nothing is left along those axes.
    """
    sums = np.unique(counts.sum(axis=piece.axis))
    if len(sums) != 1 and id(piece.layer) not in dead:
        raise ValueError(
            "The groups of a layer must keep equally many channels. "
            f"Received: layer={piece.layer.name!r}, channels kept={sums.tolist()}."
        )
    return int(sums.max(initial=0))


def matched_index_maps(kept_units, new, pairs, made=()):
    """Returns the index maps of all weights of a model to which units were added.

    Units are matched by the layers that make them. The n-th occurrence of a unit along an axis of
    the new weight comes from its n-th occurrence along that axis of the old one.

    Args:
        kept_units: The `KeptUnits`.
        new: The `Coupling` of the new model.
        pairs: Pairs of an old variable and its counterpart.
        made: As in `carried_index_maps`.

    Returns:
        For each old variable, by id, a dict from an axis to the old indices, `NEW` where there is
        none. See `kept_index_maps` for their shapes.

    Raises:
        ValueError: If the new model couples its units in another way.
    """
    both = _slice_pairs(kept_units.coupling, new, pairs)
    old_units = _matched_units(kept_units, new, both, made)
    added = np.flatnonzero(old_units == NEW)
    pinned = [unit for unit in added.tolist() if unit in new.pins]
    if pinned:  # as where a unit was alone, and a mean over it was the unit
        raise ValueError(
            "New units would not be free to come and go, since they count in what others are. "
            f"Received: {len(added)} new units, of which {len(pinned)} would be held. "
            f"Reason: {new.pins[pinned[0]]}."
        )
    return _index_maps(kept_units.coupling, new, both, old_units)


def carried_index_maps(old, new, pairs, made=()):
    """Returns the index maps where operations were inserted, removed or connected.

    The units themselves are as they were.

    Args:
        old, new: The `Coupling` of either model.
        pairs: Pairs of an old variable and its counterpart.
        made: Pairs of arrays: old units or `NEW`, and the new units in their place, of operations
            that count as makers of their outputs (see `apart` of `couple`).

    Returns:
        As `matched_index_maps`; what is not in the old model is `NEW`.
    """
    both = _slice_pairs(old, new, pairs)
    were_units = [np.full(new.size, NEW)]  # several where the new model couples old units
    were_units[0][FIXED] = FIXED
    makers = [
        (unique_in_order(old.roots[ours.labels]), unique_in_order(new.roots[theirs.labels]))
        for ours, theirs in both
        if ours.makes and ours.labels.ndim == 1
    ]
    for were, are in [*makers, *_units_without_maker(old, new, both), *made]:
        if len(were) == len(are):
            _note(were_units, were, are)
    return _index_maps(old, new, both, *were_units, may_lack=True)


def _note(were_units, were, are):
    """Writes old units into the first of some arrays over new ones that has none there yet."""
    left = were != NEW
    for units in were_units:
        left &= units[are] != were
        is_free = left & (units[are] == NEW)
        units[are[is_free]] = were[is_free]
        left &= ~is_free
    if left.any():
        were_units.append(np.full(len(were_units[0]), NEW))
        were_units[-1][are[left]] = were[left]


def _slice_pairs(old, new, pairs):
    """Pairs of a slice of an old weight and the slice of its counterpart along the same axis."""
    counterparts = {id(ours): id(theirs) for ours, theirs in pairs}
    found = {(id(piece.variable), piece.axis): piece for piece in new.slices}
    return [
        (piece, found[counterparts[id(piece.variable)], piece.axis])
        for piece in old.slices
        if (counterparts.get(id(piece.variable)), piece.axis) in found
    ]


def _index_maps(old, new, both, old_units, *others, may_lack=False):
    """The index maps, given for each new unit the old unit that it was, and others that it was."""
    indices, uneven = {}, []
    for ours, theirs in both:
        before, are = old.roots[ours.labels], new.roots[theirs.labels]
        were = old_units
        for other in others:  # of several old units that are one now, the slice has its own
            is_here = (other != NEW) & np.isin(other, before) & ~np.isin(were, before)
            were = np.where(is_here, other, were)
        if before.ndim > 1 or are.ndim > 1:
            uneven.append((ours, were, before, are))
        else:
            found = _occurrences(were[are], before, are, ours, may_lack)
            indices.setdefault(id(ours.variable), {})[ours.axis] = found
    for ours, were, before, are in uneven:
        selected = indices.setdefault(id(ours.variable), {})
        selected[ours.axis] = _occurrences_by_line(were, are, before, ours, selected, may_lack)
    return indices


def _matched_units(kept_units, new, both, made):
    """For each new unit the old unit that it was, `NEW` if none, -2 if not known."""
    old, unknown = kept_units.coupling, -2
    old_units = np.full(new.size, unknown)
    old_units[FIXED] = FIXED
    for were, are in made:
        old_units[are] = were
    for ours, theirs in both:
        if not ours.makes or ours.labels.ndim > 1:
            continue
        were = kept_units.expanded(unique_in_order(old.roots[ours.labels]))
        are = unique_in_order(new.roots[theirs.labels])
        is_told = len(were) == len(are) and np.isin(old_units[are], [unknown, *set(were)]).all()
        known = old_units[are] != unknown if is_told else ()
        if not is_told or (old_units[are][known] != were[known]).any():
            raise ValueError(_other_coupling(ours.layer))
        old_units[are] = were
    for were, are in _units_without_maker(old, new, both):
        were = kept_units.expanded(were)
        if len(were) == len(are):
            old_units[are] = were
    return old_units


def _units_without_maker(old, new, both):
    """Pairs of old and new units that no layer makes, such as key heads that heads share."""
    made = [np.zeros(coupling.size, bool) for coupling in (old, new)]
    for pair in both:
        for coupling, piece, is_made in zip((old, new), pair, made, strict=True):
            is_made[coupling.roots[piece.labels]] |= piece.makes
    for ours, theirs in both:
        if ours.labels.ndim == 1 and not ours.makes:
            were, are = old.roots[ours.labels], new.roots[theirs.labels]
            if not (made[0][were] | (were == FIXED)).any() and not made[1][are].any():
                yield unique_in_order(were), unique_in_order(are)


def _occurrences(after, before, are, piece, may_lack=False):
    """For each unit in `after` the index in `before` of the same occurrence of it.

    Occurrences are counted among the new units `are`: several may come from one old unit.
    """
    size = len(before) + len(after)
    known = before * size + _occurrence_numbers(before)
    wanted = after * size + _occurrence_numbers(are)
    order = np.argsort(known)
    found = order[np.searchsorted(known, wanted, sorter=order) % len(known)]
    lacks = (known[found] != wanted) | (after == NEW)
    if lacks[after != NEW].any() and not may_lack:
        raise ValueError(_other_coupling(piece.layer))
    return np.where(lacks, NEW, found)


def _occurrence_numbers(values):
    """For each element how many elements before it have its value."""
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    first = np.searchsorted(ordered, ordered)
    numbers = np.empty(len(values), int)
    numbers[order] = np.arange(len(values)) - first
    return numbers


def _occurrences_by_line(old_units, are, before, piece, selected, may_lack):
    """`_occurrences` for each line along the axis of a slice, after the other axes were cut."""
    after = old_units[are]
    for axis, indices in selected.items():
        before = np.take(before, indices, axis) if before.shape[axis] != 1 else before
        after = np.where(placed(indices == NEW, axis, after.ndim), NEW, after)
    are = np.broadcast_to(are, after.shape)
    before, after, are = (np.moveaxis(units, piece.axis, -1) for units in (before, after, are))
    flat = [units.reshape(-1, units.shape[-1]) for units in (after, before, are)]
    lines = [_occurrences(*line, piece, may_lack) for line in zip(*flat, strict=True)]
    return np.moveaxis(np.reshape(lines, after.shape), -1, piece.axis)


def _other_coupling(layer):
    return (
        "The units of the new model would be coupled in another way than those of the old one. "
        f"Received: layer={layer.name!r}. Choose indices with which shuffles, slices and groups "
        "keep their pattern, as the same for each group."
    )


def gathered(value, indices_by_axis, counterpart):
    """Returns an array gathered by its index maps, with new positions from its counterpart.

    Args:
        value: The array.
        indices_by_axis: Dict from each axis that changes to the old indices, `NEW` for new ones;
            those that differ along other axes too come last.
        counterpart: The variable of the new model, or an array.
    """
    is_new = np.zeros((1,) * value.ndim, bool)
    for axis, indices in indices_by_axis.items():
        if indices.ndim > 1:
            value = np.take_along_axis(value, indices, axis)
        else:
            value = np.take(value, indices, axis)
        is_new = is_new | new_positions(indices, axis, value.ndim)
    if is_new.any():
        if isinstance(counterpart, keras.Variable):
            counterpart = keras.ops.convert_to_numpy(_keras.raw(counterpart))
        value = np.where(is_new, counterpart, value)
    return value


def new_positions(indices, axis, rank):
    """Returns where the indices along an axis are `NEW`, as a boolean array of a rank."""
    is_new = indices == NEW
    return is_new if indices.ndim > 1 else placed(is_new, axis, rank)
