"""Groups that must keep equal counts: which units to add, and which to choose.

See `tfprune.coupling.labels.Grouping` for the constraint.
"""

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import coo_array

_SECONDS = 20


def equalize_groups(groupings, roots, needed, last):
    """Keeps more units, so that the groups which stay keep equally many.

    Args:
        groupings: A sequence of `Grouping`.
        roots: For each label its unit.
        needed: Boolean array over units: which are kept. It is changed in place.
        last: Units to be added only if there are no others.

    Returns:
        For each unit that was added, the reason.
    """
    added = {}
    for grouping in groupings:
        sides = [roots[side] for side in grouping.sides]
        lives = np.any([needed[side].any(axis=1) for side in sides], axis=0)
        if not grouping.whole:
            lives[:] = lives.any()
        for side in sides:
            for unit in _missing(side[lives], needed, last):
                needed[unit] = True
                added[unit] = f"the groups of {grouping.layer.name!r} must keep equally many units"
    return added


def _missing(side, needed, last):
    """Units to add so that each row of units has as many needed ones as the fullest, at least 1."""
    stays = needed[side]
    count = max(1, stays.sum(axis=1).max(initial=0))
    for units, kept in zip(side, stays, strict=True):
        spare = units[~kept]
        spare = spare[np.argsort(np.isin(spare, last), kind="stable")]
        yield from spare[: count - kept.sum()].tolist()


def equal_count_constraints(coupling, pruned):
    """The constraints on a choice of units to prune.

    Args:
        coupling: A `Coupling`.
        pruned: Boolean array over units: which are pruned already.

    Returns:
        A list of arrays of shape (groups, units in a group): each row must lose equally many.
    """
    found = []
    for grouping in coupling.groupings:
        sides = [coupling.roots[side] for side in grouping.sides]
        if grouping.whole:
            stays = ~np.all([pruned[side].all(axis=1) for side in sides], axis=0)
            sides = [side[stays] for side in sides if side.shape[1] > 1]
        found.extend(side for side in sides if len(side) > 1)
    return found


def connected_sets(sets, sides):
    """Which sets of units must be chosen together, because a constraint has units of each.

    Args:
        sets: A sequence of `UnitSet`.
        sides: Constraints, from `equal_count_constraints`.

    Returns:
        A list of pairs: a list of sets, and their constraints.
    """
    found = [([unit_set], []) for unit_set in sets]
    for side in sides:
        touched = [f for f in found if any(np.isin(s.units, side).any() for s in f[0])]
        if touched:
            found = [f for f in found if f not in touched]
            together = [unit_set for each, _ in touched for unit_set in each]
            found.append((together, [*(s for _, each in touched for s in each), side]))
    return found


def select_equal_counts(scores, caps, rows):
    """The cheapest choice of as many units as can go while all groups lose equally many.

    It maximises the number of units, then minimises the sum of their scores, subject to

        sum_{u in set s} x_u <= caps_s,   sum_{u in group g} x_u = sum_{u in group g + 1} x_u

    Args:
        scores: Array over n units; -inf for what must go, +inf for what must stay.
        caps: Pairs of a boolean array (n,) and how many of these units may go.
        rows: Integer arrays of shape (groups, units in a group), of places among the n units.

    Returns:
        A boolean array over the units, or None if there is no such choice.
    """
    count = len(scores)
    finite = np.isfinite(scores)
    order = np.zeros(count)
    order[finite] = np.argsort(np.argsort(scores[finite], kind="stable"), kind="stable")
    limits = [LinearConstraint(np.array([m for m, _ in caps], float), ub=[c for _, c in caps])]
    for groups in rows:
        before, after = groups[:-1], groups[1:]
        line = np.repeat(np.arange(len(before)), groups.shape[1])
        values = np.concatenate([np.ones(before.size), -np.ones(after.size)])
        places = (np.tile(line, 2), np.concatenate([before.ravel(), after.ravel()]))
        if len(before):
            equal = coo_array((values, places), shape=(len(before), count)).tocsr()
            limits.append(LinearConstraint(equal, 0, 0))
    solution = milp(
        (order + 1) / (count + 1) - count,
        integrality=np.ones(count),
        bounds=Bounds(np.where(scores == -np.inf, 1, 0), np.where(scores == np.inf, 0, 1)),
        constraints=limits,
        options={"time_limit": _SECONDS},
    )
    return None if solution.x is None else solution.x > 0.5
