"""Labels: which unit each position of a tensor or a weight belongs to.

Every tensor has an integer array over its axes without the batch axis; an axis along which the
label does not change has size 1. Equal labels are one unit; `unite` makes two labels equal, as in
union-find.
Operations which only move data are applied to the labels themselves, so flatten, transpose or
concatenation need no index mapping and no inverse of one.
"""

import contextlib
from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

FIXED = 0
"""The label of positions that cannot be removed: model inputs, and outputs of pinned operations."""


@dataclass(frozen=True, eq=False)
class Slice:
    """Along `axis` of `variable` of `layer`, index `i` belongs to the unit `labels[i]`.

    Attributes:
        layer, variable, axis: The weight and its axis.
        labels: One label for each index; where they differ along other axes too, as the input
            channels do from group to group of filters, an array with the variable's axes.
        makes: Whether the layer makes (defines) these units as its output.
        family: The name of the units where the layer makes several families, else None.
        uses: Whether these elements multiply the units in a sum: a unit has no effect where they
            are 0, and two equal units have the effect of one where they are halved.
    """

    layer: object
    variable: object
    axis: int
    labels: np.ndarray
    makes: bool = False
    family: str | None = None
    uses: bool = False

    def broadcast(self, values):
        """Broadcasts an array with a value for each label to the variable's shape."""
        return np.broadcast_to(self.placed(values), self.variable.shape)

    def placed(self, values):
        """An array with a value for each label, that can be broadcast to the variable's shape."""
        rank = len(self.variable.shape)
        return values if values.ndim == rank else placed(values, self.axis, rank)

    def any(self, elements):
        """For each label whether any of its elements is True, given for all of the variable."""
        others = [axis for axis, n in enumerate(self.placed(self.labels).shape) if n == 1]
        return elements.any(axis=tuple(others), keepdims=True).reshape(self.labels.shape)


@dataclass(frozen=True, eq=False)
class Grouping:
    """An equal-count constraint: all groups that are kept have equally many units on each side.

    Attributes:
        layer: The layer that requires it.
        sides: Label arrays of shape (groups, units in a group), each with its own count: the input
            channels and the filters of a grouped convolution.
        whole: Whether a whole group may be removed, with its units on every side.
    """

    layer: object
    sides: tuple
    whole: bool = True


class Labels:
    """Creates labels and records how operations tie, pin and use them.

    Rules get one in `Rule.label`.

    Args:
        literal: The ids of layers whose constants are as large as numbers in their code say, so
            that units along them stay.
        other_axis: The ids of operations that put units on another of several axes than by default:
            on what heads have rather than on the heads, or the other way round.

    Attributes:
        took_constants: Whether units pass along a constant of a layer that is none of these.
        of_numbers: The label of each number along the axes of weights, see `WeightAxes`.
        made_by_weights, used_by_weights: Label arrays of the units that weights which are tensors
            make, and that they join.
        sliced_by: For each variable and axis with units, as an id and a number, the ids of the
            layers that recorded it.
        blocks: The labels of tensors that could vary along several axes and were united until they
            vary along one.
    """

    def __init__(self, literal=(), other_axis=()):
        self.count = 1
        self.literal, self.other_axis = frozenset(literal), frozenset(other_axis)
        self.took_constants = False
        self.slices = []
        self.groupings = []
        self.pins = []
        self.of_numbers = np.zeros(1, int)
        self.made_by_weights, self.used_by_weights = [], []
        self.sliced_by = {}
        self.blocks = []
        self._edges = []
        self._placed = {}
        self._owners = []

    def fresh(self, size):
        """Returns `size` new labels."""
        labels = np.arange(self.count, self.count + size)
        self.count += size
        return labels

    def is_literal(self, call):
        """Whether a call is made in a layer whose sizes are numbers in its code."""
        return any(id(parent) in self.literal for parent in call.parents)

    def along_axes(self, array):
        """The labels along each axis of an array among the arguments of a call.

        Args:
            array: A constant, whose positions are fixed, or a `WeightArray`.

        Returns:
            A list of arrays, or None for axes of size 1.
        """
        numbers = getattr(array, "axes", None) or [None] * array.ndim
        fixed = [np.full(size, FIXED) if size > 1 else None for size in array.shape]
        return [
            found if along is None else self.of_numbers[along]
            for along, found in zip(numbers, fixed, strict=True)
        ]

    def unite(self, a, b, reason):
        """Makes the labels of two arrays, broadcast against each other, equal in pairs.

        A unit that meets a fixed position is pinned; `reason` says why.
        """
        pairs = np.stack(np.broadcast_arrays(a, b), axis=-1).reshape(-1, 2)
        pairs = np.unique(pairs[pairs[:, 0] != pairs[:, 1]], axis=0)
        meets_fixed = (pairs == FIXED).any(axis=1)
        self.pin(pairs[meets_fixed], reason)
        self._edges.append(pairs[~meets_fixed])

    def pin(self, labels, reason):
        """Marks units that cannot be removed, with the reason."""
        labels = np.unique(labels)
        labels = labels[labels != FIXED]
        if labels.size:
            self.pins.append((labels, reason))

    def slice(self, layer, variable, axis, labels, *, makes=False, family=None, uses=False):
        """Records that the indices along `axis` of `variable` belong to the units `labels`.

        A `variable` that is None is ignored. If the layer is called again, the labels of both calls
        are united. See `Slice` for the arguments.
        """
        if variable is None:
            return
        if np.ndim(labels) < 2:
            labels = np.broadcast_to(labels, (variable.shape[axis],))
        known = self._placed.setdefault((id(variable), axis), labels)
        if self._owners:
            layer, family = self._owners[0][0], self._family(family)
        self.sliced_by.setdefault((id(variable), axis), set()).add(id(layer))
        if known is labels:
            self.slices.append(Slice(layer, variable, axis, labels, makes, family, uses))
        else:
            self.unite(known, labels, f"{layer.name!r} is also called on fixed channels")

    def group(self, layer, *sides, whole=True):
        """Records an equal-count constraint, see `Grouping`."""
        layer = self._owners[0][0] if self._owners else layer
        self.groupings.append(Grouping(layer, sides, whole))

    @contextlib.contextmanager
    def inside(self, layer, family=None):
        """Records what is said of inner layers as slices of `layer`, in family `family`."""
        self._owners.append((layer, family))
        yield
        self._owners.pop()

    def _family(self, family):
        names = [name for _, name in self._owners if name is not None]
        return "/".join(names if family is None else [*names, family]) or None

    def roots(self):
        """Returns for each label the number of its equivalence class; that of `FIXED` is 0."""
        edges = np.concatenate([np.empty((0, 2), int), *self._edges])
        ones = np.ones(len(edges), bool)
        graph = coo_array((ones, (edges[:, 0], edges[:, 1])), shape=(self.count, self.count))
        # Components are numbered by the first label in them, so that of FIXED comes first.
        return connected_components(graph, directed=False)[1]


def along(labels, axis):
    """Returns the labels along one axis of a label array, or None if they vary along another.

    Args:
        labels: Array over the axes of a tensor without the batch axis.
        axis: The axis, negative ones counted from the end.

    Returns:
        A one-dimensional array; of size 1 if the labels do not vary along the axis either.
    """
    rest = [size for i, size in enumerate(labels.shape) if i != axis % labels.ndim]
    if any(size != 1 for size in rest):
        return None
    return labels.reshape(-1)


def placed(labels, axis, ndim):
    """Reshapes a one-dimensional array to `ndim` axes, along `axis`: the inverse of `along`."""
    shape = [1] * ndim
    shape[axis] = len(labels)
    return np.asarray(labels).reshape(shape)
