"""A fraction of the units pruned, so that each layer keeps the nearest multiple."""

import numpy as np

from tfprune.patterns import pruned_count
from tfprune.units.selection import limits
from tfprune.units.selection.removal_groups import bundled
from tfprune.units.selection.removal_steps import steps_of


def nearest_multiples(units, target, scoring, choice):
    """The units to prune for a fraction, with the kept ones of each layer rounded.

    The nearest multiple of `round_to` is kept, of two that are as near the larger. A layer that
    loses nothing before rounding, or has fewer units than the nearest multiple, is left alone.

    Args:
        units: `PrunableUnits`.
        target: Float from 0 to 1: of each layer with the scope "uniform", else of all units.
        scoring: `UnitScores`.
        choice: `Selection`.

    Returns:
        A boolean array over all units of the coupling.

    Raises:
        ValueError: If too many units must stay.
    """
    least = limits.least_kept(units, choice.max_fraction)
    bundles = bundled(units, scoring.of(units))
    would_go = bundles.gone.copy()
    if choice.scope == "uniform":
        for row, unit_set in enumerate(units.sets):
            inside = np.unique(bundles.of_unit[unit_set.units])
            count = pruned_count(target, len(inside))
            fewest = -(-int(least[row]) * len(inside) // len(unit_set.units))
            would_go[inside[: min(count, len(inside) - fewest)]] = True
        _check_free(units, bundles, would_go)
    else:
        total = sum(len(unit_set.units) for unit_set in units.sets)
        steps = steps_of(units, bundles, least)
        missing = pruned_count(target, total) - int(units.pruned()[_members(units)].sum())
        count = int(np.searchsorted(np.cumsum(steps.size), missing)) + 1 if missing > 0 else 0
        if count > len(steps):
            raise ValueError(
                "So many units cannot be pruned. "
                f"Received: target={target}, of {total} units {missing} more must go, and "
                f"{int(steps.size.sum())} may, with min_units={units.min_units}, "
                f"max_fraction={choice.max_fraction!r}. Nothing was changed. Prune fewer, lower "
                "`min_units`, raise `max_fraction`, or let more layers lose units."
            )
        would_go[steps.deciding[:count]] = True
    steps = steps_of(units, bundles, least, choice.round_to)
    kept = steps.kept(would_go[steps.deciding])
    return units.pruned() | (bundles.kept & ~kept)


def _members(units):
    return np.concatenate([unit_set.units for unit_set in units.sets])


def _check_free(units, bundles, would_go):
    for unit_set in units.sets:
        inside = np.unique(bundles.of_unit[unit_set.units])
        must_stay = ~bundles.free[inside] & ~bundles.gone[inside]
        if (must_stay & would_go[inside]).any():
            raise ValueError(
                "Too many units must stay, because they are frozen or pinned, to prune as many as "
                f"asked for. Received: layers={unit_set.name!r}, of {len(inside)} units, or groups "
                f"of them, {int(must_stay.sum())} must stay and {int(would_go[inside].sum())} are "
                "to go. Prune fewer, or leave the layer out with `exclude`."
            )
