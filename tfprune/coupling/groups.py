"""Equal-count constraints: groups that must keep equally many units.

`tfprune.coupling.labels.Grouping` describes the constraint. `equalize_groups` repairs a set of kept
units so that it is met; `select_equal_counts` selects units to prune under it, as an integer
program.
"""

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import coo_array

_TIME_LIMIT = 20  # seconds


def equalize_groups(groupings, roots, needed, last):
    """Marks more units as needed until groups that are kept have equally many.

    Args:
        groupings: A sequence of `Grouping`.
        roots: For each label its unit.
        needed: Boolean array over units: which are kept. It is changed in place.
        last: Units that are added only if there are no others.

    Returns:
        A dict from each unit that was added to the reason.
    """
    added = {}
    for grouping in groupings:
        sides = [roots[side] for side in grouping.sides]
        is_kept = np.any([needed[side].any(axis=1) for side in sides], axis=0)
        if not grouping.whole:
            is_kept[:] = is_kept.any()
        for side in sides:
            for unit in _missing(side[is_kept], needed, last):
                needed[unit] = True
                added[unit] = f"the groups of {grouping.layer.name!r} must keep equally many units"
    return added


def _missing(side, needed, last):
    """The units to add so that each row has as many needed units as the fullest row, at least 1."""
    stays = needed[side]
    count = max(1, stays.sum(axis=1).max(initial=0))
    for units, kept in zip(side, stays, strict=True):
        spare = units[~kept]
        spare = spare[np.argsort(np.isin(spare, last), kind="stable")]
        yield from spare[: count - kept.sum()].tolist()


def equal_count_constraints(coupling, pruned):
    """Returns the equal-count constraints on a selection of units to prune.

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
    """Groups sets of units that share a constraint, directly or through other sets.

    Such sets must be pruned in one selection. They are the connected components of the graph whose
    edges are constraints.

    Args:
        sets: A sequence of `UnitSet`.
        sides: Constraints, from `equal_count_constraints`.

    Returns:
        A list of pairs, one for each component: its sets, and their constraints.
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
    """Selects as many units to prune as possible such that groups lose equally many.

    Solves an integer program: it maximises the number of units, then minimises the sum of the
    ranks of their scores, subject to

        sum_{u in set s} x_u <= caps_s,   sum_{u in group g} x_u = sum_{u in group g + 1} x_u

    Args:
        scores: Array of shape (n,), one score for each unit; -inf for units that must be pruned,
            +inf for units that must be kept.
        caps: Pairs of a boolean array (n,) and how many of its units may be pruned at most.
        rows: Integer arrays of shape (groups, units in a group), of indices into the n units.

    Returns:
        A boolean array of shape (n,), True for units to prune; None if there is no solution.
    """
    count = len(scores)
    finite = np.isfinite(scores)
    ranks = np.zeros(count)
    ranks[finite] = np.argsort(np.argsort(scores[finite], kind="stable"), kind="stable")
    limits = [LinearConstraint(np.array([m for m, _ in caps], float), ub=[c for _, c in caps])]
    for groups in rows:
        before, after = groups[:-1], groups[1:]
        constraint = np.repeat(np.arange(len(before)), groups.shape[1])
        values = np.concatenate([np.ones(before.size), -np.ones(after.size)])
        indices = (np.tile(constraint, 2), np.concatenate([before.ravel(), after.ravel()]))
        if len(before):
            equal = coo_array((values, indices), shape=(len(before), count)).tocsr()
            limits.append(LinearConstraint(equal, 0, 0))
    solution = milp(
        (ranks + 1) / (count + 1) - count,
        integrality=np.ones(count),
        bounds=Bounds(np.where(scores == -np.inf, 1, 0), np.where(scores == np.inf, 0, 1)),
        constraints=limits,
        options={"time_limit": _TIME_LIMIT},
    )
    return None if solution.x is None else solution.x > 0.5
