"""Units that are masked and cannot be removed, and layers that stay as they are, for reports."""

import warnings

import numpy as np

from tfprune import _keras
from tfprune.coupling.units import unique_in_order, unit_name


def warn_of_partly_masked(coupling, needed):
    """Warns of units that are masked in a layer that makes them and cannot go.

    They cannot where another layer makes them too, in a sum, and does not mask them; or where they
    are pinned, as the outputs of a model are.

    Args:
        coupling: A `Coupling`.
        needed: Boolean array over its units: which stay.
    """
    lines = []
    for unit_set in coupling.sets:
        makers = list(zip(unit_set.layers, unit_set.families, strict=True))
        staying = unit_set.units[needed[unit_set.units]]
        is_held = len(makers) > 1 or not all(reason is None for reason in unit_set.pinned)
        if not (is_held and staying.size):
            continue
        masked = [staying[_masked(coupling, *maker)[staying]] for maker in makers]
        lines += _lines(coupling, unit_set, makers, masked)
    if lines:
        more = f"; and {len(lines) - 8} more" if len(lines) > 8 else ""
        warnings.warn(
            "Units that are masked in a layer stay, since they cannot go from it alone. "
            + "; ".join(lines[:8])
            + more,
            stacklevel=3,
        )


def warn_of_twins(coupling, needed):
    """Warns of parts that stay, because no `call` uses them, while what they look like shrinks.

    So does an encoder whose moving average only `train_step` uses.

    Args:
        coupling: A `Coupling`.
        needed: Boolean array over its units: which stay.
    """
    shrunk = {
        id(piece.variable)
        for piece in coupling.slices
        if not needed[coupling.roots[piece.labels]].all()
    }
    for each in coupling.trace.unreached:
        if each.stays and each.twin and shrunk.intersection(map(id, each.twin.weights)):
            warnings.warn(
                f"Units were removed from {each.twin.name!r}, and not from {each.part.name!r}, "
                "which has weights of the same shapes and which the `call` of "
                f"{each.holder.name!r} does not use. Where one is a copy or a moving average of "
                "the other, give the new model a new one.",
                stacklevel=3,
            )


def _masked(coupling, layer, family):
    """A boolean array over all units: whether masks prune all that a layer makes them with."""
    masked, seen = np.ones(coupling.size, bool), np.zeros(coupling.size, bool)
    for piece in coupling.slices:
        is_made = piece.layer is layer and piece.family == family and piece.makes
        if not is_made or len(piece.variable.shape) < 2:
            continue
        units, axis = coupling.roots[piece.labels], piece.axis
        is_guarded = _keras.is_guarded(piece.variable)
        kept = _keras.values(piece.variable.kept) if is_guarded else np.True_
        kept = np.broadcast_to(kept, piece.variable.shape)
        if units.ndim == 1:  # the same along all other axes
            kept = kept.any(axis=tuple(a for a in range(kept.ndim) if a != axis))
            units = np.broadcast_to(units, kept.shape)
        else:
            units = piece.broadcast(units)
        seen[units] = True
        masked[units[kept]] = False
    return masked & seen


def _lines(coupling, unit_set, makers, masked):
    for (layer, family), units in zip(makers, masked, strict=True):
        held = dict(zip(unit_set.units.tolist(), unit_set.pinned, strict=True))
        others = [
            unit_name(*maker)
            for maker, theirs in zip(makers, masked, strict=True)
            if maker != (layer, family) and not np.isin(units, theirs).all()
        ]
        if not units.size:
            continue
        name, indices = unit_name(layer, family), _indices(coupling, layer, family, units)
        reasons = sorted({held[unit] for unit in units.tolist() if held[unit] is not None})
        if reasons:
            yield f"{name!r} {indices}: {', '.join(reasons)}"
        elif others:
            yield (
                f"{name!r} {indices}: units of {unit_set.name!r} go together, and "
                f"{', '.join(map(repr, others))} does not mask them "
                f"(`tfprune.prune_units(model, units={{{name!r}: {indices}}})` masks the whole "
                "group)"
            )


def _indices(coupling, layer, family, units):
    """The indices of units in a layer that makes them."""
    for piece in coupling.slices:
        if piece.layer is layer and piece.family == family and piece.makes:
            of_layer = unique_in_order(coupling.roots[piece.labels].reshape(-1))
            return np.flatnonzero(np.isin(of_layer, units)).tolist()
    return []
