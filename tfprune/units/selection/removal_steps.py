"""Removal steps: single removal groups, or as many as lead to the next multiple of `round_to`.

Every scope of a selection is an order of steps. With `round_to` a layer goes from one multiple to
the next one below. Such a step is taken where more than half of its units would go, which is
rounding to the nearest multiple; at the half the units stay. Where the nearest multiple is more
than a layer has, all its units stay.
"""

import math
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from tfprune.units.selection.axis_lengths import AxisLengths
from tfprune.units.selection.removal_groups import RemovalGroups

_LEAST_PART = 4


@dataclass(frozen=True, eq=False)
class RemovalSteps:
    """The steps in which units can be removed, the lowest scores first.

    Attributes:
        groups: `RemovalGroups`.
        step_of_group: For each group the step that removes it, -1 if it stays or is removed
            already.
        queue: For each step its queue. Steps of a queue are removed in order. Without rounding,
            queues are equivalence classes of groups, whose steps save the same.
        importance: For each step the sum of its units' scores.
        size: For each step how many units it has.
        deciding_group: For each step the group whose score decides its place in the order.
        position: For each step where that group stands among those of the same layers, from 0 to 1:
            that fraction of the layers is removed when it goes.
        min_kept: For each set how many units stay at least.
    """

    groups: RemovalGroups
    step_of_group: np.ndarray
    queue: np.ndarray
    importance: np.ndarray
    size: np.ndarray
    deciding_group: np.ndarray
    position: np.ndarray
    min_kept: np.ndarray

    def __len__(self):
        return len(self.queue)

    def kept(self, removed):
        """Boolean array over units: which are kept when the steps `removed` go."""
        with_none = np.append(removed, False)  # for groups of no step
        return self.groups.kept & ~with_none[self.step_of_group][self.groups.group_of_unit]

    def units_removed(self, removed):
        """Boolean array over units: which go when the steps `removed` go."""
        return self.groups.kept & ~self.kept(removed)

    def units(self):
        """A matrix (steps, units): which units go with a step."""
        step = self.step_of_group[self.groups.group_of_unit]
        units = np.flatnonzero(step >= 0)
        ones = np.ones(len(units), np.int64)
        return csr_array((ones, (step[units], units)), shape=(len(self), len(step)))


def removal_steps(units, groups, min_kept, round_to=None, *, protect=True):
    """The steps in which the units of a model can be removed.

    Args:
        units: `PrunableUnits`.
        groups: Their `RemovalGroups`.
        min_kept: For each set how many units it keeps at least.
        round_to: Integer: each set keeps a multiple of it, or all its units. Or an array of a power
            of 2 for each set, of which a set may also keep a half or a quarter, but no fewer than
            4; sets that are tied take the smallest of theirs.
        protect: Whether steps are left out so that, whatever goes, no set has fewer than
            `min_kept` units and no tensor is without units: those with the best scores stay.

    Returns:
        `RemovalSteps`.
    """
    cluster = _clusters(groups)
    rank, count = _ranks(cluster)
    may_go = groups.removable.copy()
    if protect:
        _protect_sets(may_go, groups, min_kept)
        _protect_tensors(may_go, groups, units.coupling)
    is_own = isinstance(round_to, np.ndarray)
    multiples = np.broadcast_to(1 if round_to is None else round_to, len(min_kept))
    if (multiples == 1).all():
        deciding_group = np.flatnonzero(may_go)
        step_of_group = np.full(len(may_go), -1)
        step_of_group[deciding_group] = np.arange(len(deciding_group))
        queue = groups.equivalence_class[deciding_group]
    else:
        step_of_group, queue, deciding_group = _rounded(
            groups, may_go, cluster, min_kept, multiples, is_own
        )
    members = step_of_group >= 0
    unit_count = np.bincount(groups.group_of_unit, minlength=len(may_go))

    def summed(values):
        return np.bincount(step_of_group[members], values[members], minlength=len(queue))

    return RemovalSteps(
        groups=groups,
        step_of_group=step_of_group,
        queue=queue,
        importance=summed(groups.importance),
        size=summed(unit_count).astype(int),
        deciding_group=deciding_group,
        position=((rank + 0.5) / count)[deciding_group],
        min_kept=min_kept,
    )


def _clusters(groups):
    """For each group a number shared by all in the same, or in tied sets; -1 outside of all."""
    members = groups.members
    touching = connected_components(members @ members.T, directed=False)[1]
    cluster = np.full(members.shape[1], -1)
    sets, columns = members.nonzero()
    cluster[columns] = touching[sets]
    return cluster


def _ranks(cluster):
    """For each group how many of its cluster have lower scores, and how many there are."""
    order = np.argsort(cluster, kind="stable")
    starts = np.searchsorted(cluster[order], cluster[order])
    rank = np.empty(len(cluster), int)
    rank[order] = np.arange(len(cluster)) - starts
    return rank, np.bincount(cluster + 1)[cluster + 1]


def _protect_sets(may_go, groups, min_kept):
    """The best groups of each set stay, as many as it keeps at least."""
    for row, fewest in enumerate(min_kept):
        inside, sizes = _in_set(groups, row)
        better = np.cumsum(sizes[::-1])[::-1] - sizes  # units of groups with higher scores
        may_go[inside[better < fewest]] = False


def _in_set(groups, row):
    """The groups of a set which are not removed, in order, and how many of its units they have."""
    span = slice(*groups.members.indptr[row : row + 2])
    inside, sizes = groups.members.indices[span], groups.members.data[span]
    order = np.argsort(inside)
    inside, sizes = inside[order], sizes[order]
    alive = ~groups.removed[inside]
    return inside[alive], sizes[alive]


def _protect_tensors(may_go, groups, coupling):
    """The best group stays of an axis of a tensor or weight that could lose all its units."""
    matrix = AxisLengths(coupling).matrix
    for row in range(matrix.shape[0]):
        inside = groups.group_of_unit[matrix.indices[slice(*matrix.indptr[row : row + 2])]]
        inside = inside[~groups.removed[inside]]
        if inside.size and may_go[inside].all():
            may_go[inside.max()] = False


def _rounded(groups, may_go, cluster, min_kept, multiples, with_parts):
    """Steps from one multiple to the next: the step of each group, the queues, deciding groups."""
    found = []
    for number in range(cluster.max() + 1):
        inside = np.flatnonzero(cluster == number)
        rows = np.unique(groups.members[:, inside].nonzero()[0])
        round_to = int(multiples[rows].min())
        members = groups.members[rows][:, inside].toarray()
        sizes = members.sum(axis=1)
        left = sizes[:, None] - np.cumsum(members, axis=1)  # of each set, after each group
        left[:, groups.removed[inside]] = -1
        is_multiple = left % round_to == 0
        if with_parts:
            parts = [round_to // 2, round_to // 4]
            is_multiple |= np.isin(left, [part for part in parts if part >= _LEAST_PART])
        fits = (is_multiple & (left >= min_kept[rows, None])).all(axis=0)
        fits &= np.logical_and.accumulate(may_go[inside] | groups.removed[inside])
        start = int(groups.removed[inside].sum())
        ends = np.flatnonzero(fits) + 1
        whole = round_to // math.gcd(round_to, int(members[0].max()))
        for end in ends[ends > start]:
            missing = max(0, whole - (end - start))  # of a step which begins at no multiple
            middle = min(start + max(0, whole // 2 - missing), end - 1)
            found.append((inside[middle], number, inside[start:end]))
            start = end
    found.sort(key=lambda step: step[0])
    step_of_group = np.full(len(may_go), -1)
    for step, (_, _, inside) in enumerate(found):
        step_of_group[inside] = step
    queue = np.array([number for _, number, _ in found], int)
    return step_of_group, queue, np.array([deciding for deciding, _, _ in found], int)
