"""A fraction of the units pruned where each layer keeps a multiple, as of 8 channels."""

import numpy as np

from tfprune.patterns import pruned_count
from tfprune.units.selection import limits
from tfprune.units.selection.removal_groups import removal_groups
from tfprune.units.selection.removal_steps import removal_steps


def select_nearest_multiples(units, target, scoring, selection):
    """The units to prune for a fraction, so that each layer keeps the nearest multiple.

    The nearest multiple of `round_to` is kept, of two that are as near the larger. A layer that
    loses nothing before rounding, or has fewer units than the nearest multiple, is left alone.

    Args:
        units: `PrunableUnits`.
        target: Float from 0 to 1: of each layer with the scope "uniform", else of all units.
        scoring: `UnitScores`.
        selection: `Selection`.

    Returns:
        A boolean array over all units of the coupling.

    Raises:
        ValueError: If too many units must stay.
    """
    min_kept = limits.least_kept(units, selection.max_fraction)
    groups = removal_groups(units, scoring.of(units))
    to_remove = groups.removed.copy()
    if selection.scope == "uniform":
        for row, unit_set in enumerate(units.sets):
            inside = np.unique(groups.group_of_unit[unit_set.units])
            count = pruned_count(target, len(inside))
            fewest = -(-int(min_kept[row]) * len(inside) // len(unit_set.units))
            to_remove[inside[: min(count, len(inside) - fewest)]] = True
        _check_removable(units, groups, to_remove)
    else:
        total = sum(len(unit_set.units) for unit_set in units.sets)
        steps = removal_steps(units, groups, min_kept)
        pruned = sum(int(units.pruned()[unit_set.units].sum()) for unit_set in units.sets)
        missing = pruned_count(target, total) - pruned
        count = int(np.searchsorted(np.cumsum(steps.size), missing)) + 1 if missing > 0 else 0
        if count > len(steps):
            raise ValueError(
                "So many units cannot be pruned. "
                f"Received: target={target}, of {total} units {missing} more must go, and "
                f"{int(steps.size.sum())} may, with min_units={units.min_units}, "
                f"max_fraction={selection.max_fraction!r}. Nothing was changed. Prune fewer, lower "
                "`min_units`, raise `max_fraction`, or let more layers lose units."
            )
        to_remove[steps.deciding_group[:count]] = True
    steps = removal_steps(units, groups, min_kept, selection.round_to)
    return units.pruned() | steps.units_removed(to_remove[steps.deciding_group])


def _check_removable(units, groups, to_remove):
    for unit_set in units.sets:
        inside = np.unique(groups.group_of_unit[unit_set.units])
        must_stay = ~groups.removable[inside] & ~groups.removed[inside]
        if (must_stay & to_remove[inside]).any():
            raise ValueError(
                "Too many units must stay, because they are frozen or pinned, to prune as many as "
                f"asked for. Received: layers={unit_set.name!r}, of {len(inside)} units, or groups "
                f"of them, {int(must_stay.sum())} must stay and {int(to_remove[inside].sum())} are "
                "to go. Prune fewer, or leave the layer out with `exclude`."
            )
