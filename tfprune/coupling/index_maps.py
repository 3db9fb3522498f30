"""At which indices of the old weights the places of the new ones stood."""

import numpy as np

from tfprune.coupling.kept_units import NEW, unique_in_order
from tfprune.coupling.labels import FIXED, placed


def kept_index_maps(kept_units):
    """The kept indices, where a kept_units has no new units: the labels say them.

    Returns:
        For each old variable, by id, a dict from each axis that changes to the old indices. They
        are one-dimensional; where units differ along other axes too they have the variable's axes
        and stand last, for arrays that are cut along the axes before.

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
        chosen = indices.setdefault(id(piece.variable), {})
        for axis, kept in chosen.items():
            stays = np.take(stays, kept, axis) if stays.shape[axis] != 1 else stays
        if not stays.all():
            order = np.argsort(~stays, axis=piece.axis, kind="stable")
            count = equal_count(stays, piece)
            chosen[piece.axis] = np.take(order, range(count), axis=piece.axis)
    return indices


def equal_count(counts, piece):
    """How many positions stand along the axis of a piece, the same at each place of the others."""
    sums = np.unique(counts.sum(axis=piece.axis))
    if len(sums) != 1:
        raise ValueError(
            "The groups of a layer must keep equally many channels. "
            f"Received: layer={piece.layer.name!r}, channels kept={sums.tolist()}."
        )
    return int(sums[0])


def matched_index_maps(kept_units, new, pairs):
    """For weights of the new model the indices at which each place stood in the old one.

    The new model is analysed as the old one was; its units are told by the layers that make them,
    and each occurrence of a unit along an axis stood where that occurrence of it did. So no
    operation that moves data has to be inverted.

    Args:
        kept_units: The `KeptUnits`.
        new: The `Coupling` of the new model.
        pairs: Pairs of an old variable and its counterpart.

    Returns:
        For each old variable, by id, a dict from an axis to the old indices, `NEW` where there is
        none. They are one-dimensional; where units differ along other axes too they have the
        variable's axes and stand last.

    Raises:
        ValueError: If the new model couples its units in another way.
    """
    both = _piece_pairs(kept_units.coupling, new, pairs)
    stood = _matched_units(kept_units, new, both)
    come = np.flatnonzero(stood == NEW)
    pinned = [unit for unit in come.tolist() if unit in new.pins]
    if pinned:  # as where a unit was alone, and a mean over it was the unit
        raise ValueError(
            "New units would not be free to come and go, since they count in what others are. "
            f"Received: {len(come)} new units, of which {len(pinned)} would be held. "
            f"Reason: {new.pins[pinned[0]]}."
        )
    return _places(kept_units.coupling, new, both, stood)


def carried_index_maps(old, new, pairs, made=()):
    """The same where operations were added, taken away or connected, and units are as they were.

    Args:
        old, new: The `Coupling` of either model.
        pairs: Pairs of an old variable and its counterpart.
        made: Pairs of arrays, old units or `NEW` and the new units that stand for them, of
            operations that count as makers of what they give.

    Returns:
        As `matched_index_maps`; what was nowhere in the old model is `NEW`.
    """
    both = _piece_pairs(old, new, pairs)
    stood = np.full(new.size, NEW)
    stood[FIXED] = FIXED
    makers = [
        (unique_in_order(old.roots[ours.labels]), unique_in_order(new.roots[theirs.labels]))
        for ours, theirs in both
        if ours.makes and ours.labels.ndim == 1
    ]
    for were, are in [*makers, *_made_by_none(old, new, both), *made]:
        if len(were) == len(are):
            stood[are] = np.where(stood[are] == NEW, were, stood[are])
    return _places(old, new, both, stood, may_lack=True)


def _piece_pairs(old, new, pairs):
    """The places of units in the old weights, each with that in the counterpart of the weight."""
    counterparts = {id(ours): id(theirs) for ours, theirs in pairs}
    found = {(id(piece.variable), piece.axis): piece for piece in new.slices}
    return [
        (piece, found[counterparts[id(piece.variable)], piece.axis])
        for piece in old.slices
        if (counterparts.get(id(piece.variable)), piece.axis) in found
    ]


def _places(old, new, both, stood, may_lack=False):
    """The old indices along each axis, given for each new unit the old one that it was."""
    indices, uneven = {}, []
    for ours, theirs in both:
        before, are = old.roots[ours.labels], new.roots[theirs.labels]
        if before.ndim > 1 or are.ndim > 1:
            uneven.append((ours, before, are))
        else:
            found = _occurrences(stood[are], before, are, ours, may_lack)
            indices.setdefault(id(ours.variable), {})[ours.axis] = found
    for ours, before, are in uneven:
        chosen = indices.setdefault(id(ours.variable), {})
        chosen[ours.axis] = _uneven_occurrences(stood, are, before, ours, chosen, may_lack)
    return indices


def _matched_units(kept_units, new, both):
    """For each new unit the old one that it was, `NEW` if it was none, -2 if nobody says."""
    old, unknown = kept_units.coupling, -2
    stood = np.full(new.size, unknown)
    stood[FIXED] = FIXED
    for ours, theirs in both:
        if not ours.makes or ours.labels.ndim > 1:
            continue
        were = kept_units.expanded(unique_in_order(old.roots[ours.labels]))
        are = unique_in_order(new.roots[theirs.labels])
        is_told = len(were) == len(are) and np.isin(stood[are], [unknown, *set(were)]).all()
        known = stood[are] != unknown if is_told else ()
        if not is_told or (stood[are][known] != were[known]).any():
            raise ValueError(_other_coupling(ours.layer))
        stood[are] = were
    for were, are in _made_by_none(old, new, both):
        were = kept_units.expanded(were)
        if len(were) == len(are):
            stood[are] = were
    return stood


def _made_by_none(old, new, both):
    """Old and new units that no layer makes, such as heads of keys that others share."""
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
    """For each unit in `after` the place in `before` of the same occurrence of it.

    Occurrences are counted among the new units `are`: several may stand for one old unit.
    """
    size = len(before) + len(after)
    known = before * size + _numbered(before)
    wanted = after * size + _numbered(are)
    order = np.argsort(known)
    found = order[np.searchsorted(known, wanted, sorter=order) % len(known)]
    lacks = (known[found] != wanted) | (after == NEW)
    if lacks[after != NEW].any() and not may_lack:
        raise ValueError(_other_coupling(piece.layer))
    return np.where(lacks, NEW, found)


def _numbered(values):
    """For each element how often its value stands before it."""
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    first = np.searchsorted(ordered, ordered)
    numbers = np.empty(len(values), int)
    numbers[order] = np.arange(len(values)) - first
    return numbers


def _uneven_occurrences(stood, are, before, piece, chosen, may_lack):
    """The same for each line along the axis of a piece, the lines being chosen already."""
    after = stood[are]
    for axis, indices in chosen.items():
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
