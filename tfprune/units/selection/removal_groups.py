"""Units that can only go together, because groups must keep equal counts: one bundle.

Mostly a bundle is one unit. Of groups it has one unit each, those of equal rank: the worst of each
group go first. Where units stand in groups of several layers that cut them in different ways, those
at the same place of each group go together; where a group has a single unit on one side, the group.
"""

from collections import Counter
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from tfprune.coupling.labels import FIXED
from tfprune.units.cost_model import incidence


@dataclass(frozen=True, eq=False)
class Bundles:
    """The bundles of a model, in the order in which they are worth keeping.

    Attributes:
        of_unit: For each unit its bundle.
        worth: For each bundle the mean of its units' scores.
        importance: For each bundle the sum of its units' scores.
        gone: Which bundles are pruned already.
        free: Which may go.
        kind: For each bundle a number; those with the same number save the same.
        members: Matrix of shape (sets, bundles): how many units of a set are in a bundle.
    """

    of_unit: np.ndarray
    worth: np.ndarray
    importance: np.ndarray
    gone: np.ndarray
    free: np.ndarray
    kind: np.ndarray
    members: csr_array

    @property
    def kept(self):
        """Boolean array over units: which are not pruned yet."""
        return ~self.gone[self.of_unit]


def bundled(units, scores):
    """The bundles of a model's units.

    Args:
        units: `PrunableUnits`.
        scores: Array over units.

    Returns:
        `Bundles`, numbered from the least worth to the most: first those that are gone, last those
        that must stay; equal ones by their place in the model.
    """
    coupling, pruned = units.coupling, units.pruned()
    may_go = np.zeros(coupling.size, bool)
    for unit_set in units.sets:
        may_go[unit_set.units] = [reason is None for reason in unit_set.pinned]
    pinned = np.zeros(coupling.size, bool)
    pinned[[FIXED, *coupling.pins]] = True
    may_go &= ~(units.frozen() & ~pruned) & ~pinned
    state = np.where(pruned & ~pinned, -1, np.where(may_go, 0, 1))
    rank = np.empty(coupling.size, int)
    rank[np.lexsort((scores, state))] = np.arange(coupling.size)
    of_unit = _tied(coupling, pruned, rank)
    count = np.bincount(of_unit)
    gone = np.bincount(of_unit, state != -1) == 0
    free = (np.bincount(of_unit, ~may_go & (state != -1)) == 0) & ~gone
    importance = np.bincount(of_unit, scores)
    worth = importance / count
    first = np.full(len(count), coupling.size)
    np.minimum.at(first, of_unit, np.arange(coupling.size))
    order = np.lexsort((first, worth, np.where(gone, -1, np.where(free, 0, 1))))
    number = np.empty(len(order), int)
    number[order] = np.arange(len(order))
    of_unit = number[of_unit]
    return Bundles(
        of_unit=of_unit,
        worth=worth[order],
        importance=importance[order],
        gone=_without_empty_sets(coupling, gone[order], of_unit),
        free=free[order],
        kind=_kinds(coupling, of_unit),
        members=_members(units.sets, of_unit),
    )


def _without_empty_sets(coupling, gone, of_unit):
    """A set of which all is pruned keeps one: no layer can be without units."""
    for unit_set in coupling.sets:
        bundles = of_unit[unit_set.units]
        if gone[bundles].all():
            gone[bundles.max()] = False
    return gone


def _tied(coupling, pruned, rank):
    """For each unit a number which units that go together share."""
    sides, edges = [], [np.empty((2, 0), int)]
    for grouping in coupling.groupings:
        roots = [coupling.roots[side] for side in grouping.sides]
        if grouping.whole:
            stays = ~np.all([pruned[side].all(axis=1) for side in roots], axis=0)
            roots = [side[stays] for side in roots]
        if grouping.whole and any(side.shape[1] == 1 for side in roots):
            together = np.concatenate(roots, axis=1).T  # whole groups go
            edges.append(_pairs(together))
            sides.append((together, True))
        else:
            sides.extend((side, False) for side in roots)
    # The same groups may be asked for by several layers.
    distinct = {np.sort(side, axis=1).tobytes(): side for side, _ in sides}
    seen = Counter(unit for side in distinct.values() for unit in np.unique(side).tolist())
    for side, is_whole in sides:
        if is_whole:
            continue
        if all(seen[unit] == 1 or unit == FIXED for unit in np.unique(side).tolist()):
            side = np.take_along_axis(side, np.argsort(rank[side], axis=1, kind="stable"), axis=1)
        edges.append(_pairs(side))
    edges = np.concatenate(edges, axis=1)
    ones, shape = np.ones(edges.shape[1], bool), (coupling.size, coupling.size)
    graph = csr_array((ones, tuple(edges)), shape=shape)
    return connected_components(graph, directed=False)[1]


def _pairs(side):
    """The edges which tie all units in a column of an array."""
    first = np.broadcast_to(side[:1], side.shape)
    return np.stack([first.reshape(-1), side.reshape(-1)])


def _kinds(coupling, of_unit):
    """Bundles whose units stand in the same places, equally often, are of one kind."""
    arrays = [piece.labels for piece in coupling.slices] + list(coupling.tensor_labels.values())
    standing = incidence(coupling, arrays)
    # Two kinds have the same number by chance in one of 2**64 cases.
    draw = np.random.default_rng(0)
    marks = standing @ draw.integers(2**63, size=standing.shape[1], dtype=np.uint64)
    sums = np.zeros(of_unit.max() + 1, np.uint64)
    np.add.at(sums, of_unit, marks)
    return np.unique(sums, return_inverse=True)[1]


def _members(sets, of_unit):
    places = np.repeat(np.arange(len(sets)), [len(unit_set.units) for unit_set in sets])
    bundles = of_unit[np.concatenate([unit_set.units for unit_set in sets])]
    ones = np.ones(len(bundles), int)
    return csr_array((ones, (places, bundles)), shape=(len(sets), of_unit.max() + 1))
