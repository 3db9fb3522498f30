"""Removal groups: the smallest sets of units that can be removed at once.

Mostly a removal group is one unit. Grouped layers must keep equally many units in each of their
groups, so one unit of each group is removed at once, those of equal rank: the lowest scores of each
    go first. Where units stand in groups of several layers that cut them in different ways, those
    at the same index of each group are removed together; where a group has a single unit on one
    side, the whole group.
"""

from collections import Counter
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array

from tfprune.coupling.labels import FIXED
from tfprune.units.incidence import incidence, row_hashes, tied_by_columns


@dataclass(frozen=True, eq=False)
class RemovalGroups:
    """The removal groups of a model: those already removed, then by mean score, last the pinned.

    Attributes:
        group_of_unit: For each unit its group.
        importance: For each group the sum of its units' scores.
        removed: Which groups are pruned already.
        removable: Which can be removed.
        equivalence_class: For each group a number; those with the same number save the same.
        members: Matrix of shape (sets, groups): how many units of a set are in a group.
    """

    group_of_unit: np.ndarray
    importance: np.ndarray
    removed: np.ndarray
    removable: np.ndarray
    equivalence_class: np.ndarray
    members: csr_array

    @property
    def kept(self):
        """Boolean array over units: which are not pruned yet."""
        return ~self.removed[self.group_of_unit]


def removal_groups(units, scores=None):
    """Partitions the units of a model into removal groups.

    Args:
        units: `PrunableUnits`.
        scores: Array over units, by default zeros.

    Returns:
        `RemovalGroups`. Groups with equal scores are in the order of the model.
    """
    coupling, pruned = units.coupling, units.pruned()
    scores = np.zeros(coupling.size) if scores is None else scores
    may_go = np.zeros(coupling.size, bool)
    for unit_set in units.sets:
        may_go[unit_set.units] = [reason is None for reason in unit_set.pinned]
    pinned = np.zeros(coupling.size, bool)
    pinned[[FIXED, *coupling.pins]] = True
    may_go &= ~(units.frozen() & ~pruned) & ~pinned
    state = np.where(pruned & ~pinned, -1, np.where(may_go, 0, 1))
    group_of_unit = _groups(coupling, pruned, rank=np.argsort(np.lexsort((scores, state))))
    count = np.bincount(group_of_unit)
    removed = np.bincount(group_of_unit, state != -1) == 0
    removable = (np.bincount(group_of_unit, ~may_go & (state != -1)) == 0) & ~removed
    importance = np.bincount(group_of_unit, scores)
    first = np.full(len(count), coupling.size)
    np.minimum.at(first, group_of_unit, np.arange(coupling.size))
    state = np.where(removed, -1, np.where(removable, 0, 1))
    order = np.lexsort((first, importance / count, state))
    group_of_unit = np.argsort(order)[group_of_unit]
    return RemovalGroups(
        group_of_unit=group_of_unit,
        importance=importance[order],
        removed=_without_empty_sets(coupling, removed[order], group_of_unit),
        removable=removable[order],
        equivalence_class=_equivalence_classes(coupling, group_of_unit),
        members=_members(units.sets, group_of_unit),
    )


def _without_empty_sets(coupling, removed, group_of_unit):
    """Keeps the best group of a set that would lose all: no layer can be without units."""
    for unit_set in coupling.sets:
        groups = group_of_unit[unit_set.units]
        if removed[groups].all():
            removed[groups.max()] = False
    return removed


def _groups(coupling, pruned, rank):
    """For each unit the number of its group, in no order."""
    tied, sides = [], []
    for grouping in coupling.groupings:
        roots = [coupling.roots[side] for side in grouping.sides]
        if grouping.whole:
            stays = ~np.all([pruned[side].all(axis=1) for side in roots], axis=0)
            roots = [side[stays] for side in roots]
        if grouping.whole and any(side.shape[1] == 1 for side in roots):
            tied.append(np.concatenate(roots, axis=1).T)  # whole groups go
        else:
            sides += roots
    # The same groups may be asked for by several layers.
    distinct = {np.sort(side, axis=1).tobytes(): side for side in tied + sides}
    seen = Counter(unit for side in distinct.values() for unit in np.unique(side).tolist())
    for side in sides:
        if all(seen[unit] == 1 or unit == FIXED for unit in np.unique(side).tolist()):
            side = np.take_along_axis(side, np.argsort(rank[side], axis=1, kind="stable"), axis=1)
        tied.append(side)
    return tied_by_columns(tied, coupling.size)


def _equivalence_classes(coupling, group_of_unit):
    """Groups are equivalent whose units occur in the same slices and tensors, equally often."""
    sums = np.zeros(group_of_unit.max() + 1, np.uint64)
    np.add.at(sums, group_of_unit, row_hashes(incidence(coupling)))
    return np.unique(sums, return_inverse=True)[1]


def _members(sets, group_of_unit):
    rows = np.repeat(np.arange(len(sets)), [len(unit_set.units) for unit_set in sets])
    groups = group_of_unit[np.concatenate([unit_set.units for unit_set in sets])]
    ones = np.ones(len(groups), int)
    return csr_array((ones, (rows, groups)), shape=(len(sets), group_of_unit.max() + 1))
