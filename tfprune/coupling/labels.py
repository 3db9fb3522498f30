"""Labels: which unit stands at which position of a tensor or a weight.

Every tensor has an integer array over its axes without the batch axis; an axis along which the
label does not change has size 1. Equal labels are one unit; `unite` makes two labels equal.
Operations which only move data are applied to the labels themselves.
"""

from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

FIXED = 0
"""The label of what is no unit and cannot go: model inputs, and what an operation pinned."""


@dataclass(frozen=True, eq=False)
class Slice:
    """Along `axis` of `variable` of `layer`, index `i` belongs to the unit `labels[i]`.

    `makes` tells whether the layer makes these units (its output), or goes along with them.
    """

    layer: object
    variable: object
    axis: int
    labels: np.ndarray
    makes: bool = False


@dataclass(frozen=True, eq=False)
class Grouping:
    """A constraint: of the units `labels[group]`, all go, or as many as in the other groups.

    `labels` has the shape (groups, units in a group).
    """

    layer: object
    labels: np.ndarray


class Labels:
    """Hands out labels and collects what the operations say of them."""

    def __init__(self):
        self.count = 1
        self.slices = []
        self.groupings = []
        self.pins = []
        self._edges = []
        self._placed = {}

    def fresh(self, size):
        """`size` labels that nobody has yet."""
        labels = np.arange(self.count, self.count + size)
        self.count += size
        return labels

    def unite(self, a, b, reason):
        """Makes the labels of two arrays, broadcast against each other, equal in pairs.

        What meets a position that is no unit cannot go either; `reason` says where they meet.
        """
        pairs = np.stack(np.broadcast_arrays(a, b), axis=-1).reshape(-1, 2)
        pairs = np.unique(pairs[pairs[:, 0] != pairs[:, 1]], axis=0)
        meets_fixed = (pairs == FIXED).any(axis=1)
        self.pin(pairs[meets_fixed], reason)
        self._edges.append(pairs[~meets_fixed])

    def pin(self, labels, reason):
        """Says that these units cannot go, and why."""
        labels = np.unique(labels)
        labels = labels[labels != FIXED]
        if labels.size:
            self.pins.append((labels, reason))

    def slice(self, layer, variable, axis, labels, makes=False):
        """Says that the units `labels` stand along `axis` of `variable`; None is passed over.

        A layer called again has other labels for the same weights: those are united.
        """
        if variable is None:
            return
        labels = np.broadcast_to(labels, (variable.shape[axis],))
        known = self._placed.setdefault((id(variable), axis), labels)
        if known is labels:
            self.slices.append(Slice(layer, variable, axis, labels, makes))
        else:
            self.unite(known, labels, f"{layer.name!r} is also called on fixed channels")

    def group(self, layer, labels):
        """Says that units may go by whole groups, or equal counts a group only."""
        self.groupings.append(Grouping(layer, labels))

    def roots(self):
        """For each label a number which equal labels share; that of `FIXED` is 0."""
        edges = np.concatenate([np.empty((0, 2), int), *self._edges])
        ones = np.ones(len(edges), bool)
        graph = coo_array((ones, (edges[:, 0], edges[:, 1])), shape=(self.count, self.count))
        # Components are numbered by the first label in them, so that of FIXED comes first.
        return connected_components(graph, directed=False)[1]


def along(labels, axis):
    """The labels along one axis of an array, or None if they change along another axis too."""
    rest = [size for i, size in enumerate(labels.shape) if i != axis % labels.ndim]
    if any(size != 1 for size in rest):
        return None
    return labels.reshape(-1)


def placed(labels, axis, ndim):
    """The opposite of `along`: a one-dimensional array put at `axis` of `ndim` axes."""
    shape = [1] * ndim
    shape[axis] = len(labels)
    return np.asarray(labels).reshape(shape)
