"""What may go, one step after another: a bundle of units, or as many as lead to the next multiple.

With `round_to` a layer goes from one multiple to the next one below. Such a step is taken where
more than half of its units would go, which is rounding to the nearest multiple; at the half the
units stay. Where the nearest multiple is more than a layer has, all its units stay.

Every scope is an order of these steps. A budget cuts the order where it is met and then takes back
the steps that still fit.
"""

import math
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from tfprune.units.selection.axis_lengths import Rows
from tfprune.units.selection.removal_groups import Bundles


@dataclass(frozen=True, eq=False)
class Steps:
    """What may go, from the least worth to the most. Steps of one queue go in order.

    Attributes:
        bundles: `Bundles`.
        of_bundle: For each bundle the step with which it goes, -1 if it stays or is gone.
        queue: For each step its queue; steps of a queue without rounding save the same.
        importance: For each step the sum of its units' scores.
        size: For each step how many units it has.
        deciding: For each step the bundle which decides where it stands among the others.
        position: For each step, and bundle, where that stands among those of the same layers, from
            0 to 1: that part of the layers is gone when it goes.
        least: For each set how many units stay at least.
    """

    bundles: Bundles
    of_bundle: np.ndarray
    queue: np.ndarray
    importance: np.ndarray
    size: np.ndarray
    deciding: np.ndarray
    position: np.ndarray
    least: np.ndarray

    def __len__(self):
        return len(self.queue)

    def kept(self, gone):
        """Boolean array over units: which are kept when steps go, given as a boolean array."""
        with_none = np.append(gone, False)  # for bundles of no step
        return self.bundles.kept & ~with_none[self.of_bundle][self.bundles.of_unit]

    def units(self):
        """A matrix (steps, units): which units go with a step."""
        step = self.of_bundle[self.bundles.of_unit]
        units = np.flatnonzero(step >= 0)
        ones = np.ones(len(units), np.int64)
        return csr_array((ones, (step[units], units)), shape=(len(self), len(step)))


def steps_of(units, bundles, least, round_to=None, *, protect=True):
    """The steps in which units may go.

    Args:
        units: `PrunableUnits`.
        bundles: Their `Bundles`.
        least: For each set how many units it keeps at least.
        round_to: Integer, of which each set keeps a multiple; or all that it has.
        protect: Whether steps are left out so that whatever goes, no set has less than `least`
            and no tensor is without units: the best of each stay.

    Returns:
        `Steps`.
    """
    cluster = _clusters(bundles)
    place, count = _places(cluster)
    may_go = bundles.free.copy()
    if protect:
        _protect_least(may_go, bundles, least)
        _protect_tensors(may_go, bundles, units.coupling)
    if round_to is None or round_to == 1:
        chosen = np.flatnonzero(may_go)
        of_bundle = np.full(len(may_go), -1)
        of_bundle[chosen] = np.arange(len(chosen))
        queue, deciding = bundles.kind[chosen], chosen
    else:
        of_bundle, queue, deciding = _rounded(bundles, may_go, cluster, least, round_to)
    members = of_bundle >= 0
    unit_count = np.bincount(bundles.of_unit, minlength=len(may_go))

    def summed(values):
        return np.bincount(of_bundle[members], values[members], minlength=len(queue))

    return Steps(
        bundles=bundles,
        of_bundle=of_bundle,
        queue=queue,
        importance=summed(bundles.importance),
        size=summed(unit_count).astype(int),
        deciding=deciding,
        position=((place + 0.5) / count)[deciding],
        least=least,
    )


def _clusters(bundles):
    """For each bundle the number of the sets which bundles tie together; -1 outside of all."""
    members = bundles.members
    touching = connected_components(members @ members.T, directed=False)[1]
    cluster = np.full(members.shape[1], -1)
    sets, columns = members.nonzero()
    cluster[columns] = touching[sets]
    return cluster


def _places(cluster):
    """For each bundle how many of its cluster are worth less, and how many there are."""
    order = np.argsort(cluster, kind="stable")
    starts = np.searchsorted(cluster[order], cluster[order])
    place = np.empty(len(cluster), int)
    place[order] = np.arange(len(cluster)) - starts
    return place, np.bincount(cluster + 1)[cluster + 1]


def _protect_least(may_go, bundles, least):
    """The best bundles of each set stay, until it has what it keeps at least."""
    for row, fewest in enumerate(least):
        inside, sizes = _in_set(bundles, row)
        better = np.cumsum(sizes[::-1])[::-1] - sizes  # how many units those worth more have
        may_go[inside[better < fewest]] = False


def _in_set(bundles, row):
    """The bundles of a set which are not gone, in order, and how many of its units they have."""
    span = slice(*bundles.members.indptr[row : row + 2])
    inside, sizes = bundles.members.indices[span], bundles.members.data[span]
    order = np.argsort(inside)
    inside, sizes = inside[order], sizes[order]
    alive = ~bundles.gone[inside]
    return inside[alive], sizes[alive]


def _protect_tensors(may_go, bundles, coupling):
    """The best bundle stays of what would leave an axis of a tensor or weight without units."""
    matrix = Rows(coupling).matrix
    for row in range(matrix.shape[0]):
        inside = bundles.of_unit[matrix.indices[slice(*matrix.indptr[row : row + 2])]]
        inside = inside[~bundles.gone[inside]]
        if inside.size and may_go[inside].all():
            may_go[inside.max()] = False


def _rounded(bundles, may_go, cluster, least, round_to):
    """Steps from one multiple to the next: the step of each bundle, the queues, what decides."""
    found = []
    for number in range(cluster.max() + 1):
        inside = np.flatnonzero(cluster == number)
        rows = np.unique(bundles.members[:, inside].nonzero()[0])
        members = bundles.members[rows][:, inside].toarray()
        sizes = members.sum(axis=1)
        left = sizes[:, None] - np.cumsum(members, axis=1)  # of each set, after each bundle
        left[:, bundles.gone[inside]] = -1
        fits = ((left % round_to == 0) & (left >= least[rows, None])).all(axis=0)
        fits &= np.logical_and.accumulate(may_go[inside] | bundles.gone[inside])
        start = int(bundles.gone[inside].sum())
        ends = np.flatnonzero(fits) + 1
        whole = round_to // math.gcd(round_to, int(members[0].max()))
        for end in ends[ends > start]:
            missing = max(0, whole - (end - start))  # of a step which begins at no multiple
            middle = min(start + max(0, whole // 2 - missing), end - 1)
            found.append((inside[middle], number, inside[start:end]))
            start = end
    found.sort(key=lambda step: step[0])
    of_bundle = np.full(len(may_go), -1)
    for place, (_, _, inside) in enumerate(found):
        of_bundle[inside] = place
    queue = np.array([number for _, number, _ in found], int)
    return of_bundle, queue, np.array([deciding for deciding, _, _ in found], int)
