"""The latency of a model with some of its units, from a table of the latency of its pieces.

A piece has a number of dimensions: its input and output channels, mostly. All removal groups that
are alike for it, in how they occur along the axes of its tensors and weights, make one dimension,
and the piece depends on how many of each are kept. The table has it at a grid of such counts, and
between them it is interpolated linearly along each dimension:

    t(c_1, c_2) = sum_{i,j in the cell} (1 - |u_i|) (1 - |v_j|) t_ij

which is exact for a cost a + b c_1 + c c_2 + d c_1 c_2, that of a matrix product. The grid lies on
multiples of 16, 8 or 4. Between multiples, kernels make steps, which `paying_widths.py` measures.
"""

import functools
import itertools
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array

from tfprune.measuring.pieces import Pieces
from tfprune.units.selection.axis_lengths import AxisLengths
from tfprune.units.selection.costs import UnitCosts

_NANOSECONDS = 1e9
_LEVELS = {1: (0.125, 0.25, 0.5, 0.75, 1.0), 2: (0.25, 0.5, 1.0)}
_ALIGNED = ((64, 16), (32, 8), (16, 4))
"""From which size on the counts of the grid are multiples of what."""

_LEAST = 0.25
"""What remains of the time at the lowest count of a grid, where a dimension goes to nothing."""


class CostsOfLatency(UnitCosts):
    """The latency in nanoseconds: a term for each piece of which units can go.

    Args:
        units: `PrunableUnits`.
        groups: Their `RemovalGroups`.
        table: `LatencyTable`, or what has its method `of`.
        batch_size: How many samples one call takes.
        input_shapes: Sizes for dynamic dimensions, as in `tfprune.coupling.costs`.

    Attributes:
        unmeasured: The names of the operations of pieces that cannot be measured. Their share is
            taken from their multiply-accumulates, at the speed of all others together.
    """

    def __init__(self, units, groups, table, batch_size=1, input_shapes=None):
        self._groups, self._table = groups, table
        coupling = units.coupling
        self._pieces = Pieces(units.model, coupling, batch_size, input_shapes)
        self._first = np.zeros(len(groups.removed), int)
        self._first[groups.group_of_unit] = np.arange(coupling.size)
        lengths = AxisLengths(coupling)
        members = csr_array(
            (
                np.ones(coupling.size, np.int64),
                (np.arange(coupling.size), groups.group_of_unit),
            ),
            shape=(coupling.size, len(groups.removed)),
        )
        self._by_axis = (lengths.matrix @ members).tocsr()
        grids = [_Grid(p, self._dimensions(p, lengths)) for p in self._pieces.all]
        self._measure(grids)
        self._fill_unmeasured(grids)
        self.fixed = round(sum(g.dense for g in grids if not g.dimensions) * _NANOSECONDS)
        self.grids = [grid for grid in grids if grid.dimensions]
        counts = [dimension.groups for grid in self.grids for dimension in grid.dimensions]
        rows = np.repeat(np.arange(len(counts)), list(map(len, counts)))
        columns = np.concatenate([np.empty(0, int), *counts])
        shape = (len(counts), len(groups.removed))
        ones = np.ones(len(columns), np.int64)
        self._counts = csr_array((ones, (rows, columns)), shape=shape)
        self._starts = np.cumsum([0, *(len(grid.dimensions) for grid in self.grids)])
        self._last = None
        self.dense = self.of(np.ones(coupling.size, bool))

    def _dimensions(self, piece, lengths):
        """The dimensions of a piece; see the module."""
        axes = {axis for tensor in piece.tensors for axis in lengths.of_tensor[tensor]}
        axes.update(lengths.of_slice[id(each)] for each in self._pieces.slices(piece))
        axes = sorted(axis for axis in axes if axis < self._by_axis.shape[0])
        along = self._by_axis[axes].toarray() if axes else np.zeros((0, len(self._first)), int)
        movable = (self._groups.removable | self._groups.removed) & along.any(axis=0)
        columns, inverse = np.unique(along[:, movable], axis=1, return_inverse=True)
        found = []
        for place in range(columns.shape[1]):
            inside = np.flatnonzero(movable)[inverse.reshape(-1) == place]
            widths = columns[:, place]
            row = int(np.flatnonzero(widths)[0])
            each = int(widths[row])
            rest = int(along[row].sum()) - each * len(inside)
            found.append(Dimension(inside, each, rest))
        return tuple(found)

    def kept(self, piece_counts):
        """Boolean array over units: all are kept but for the lowest groups of dimensions.

        Args:
            piece_counts: Pairs of a `Dimension` and how many of its groups are kept.
        """
        stays = np.ones(len(self._first), bool)
        for dimension, count in piece_counts:
            stays[dimension.groups[: len(dimension.groups) - count]] = False
        return stays[self._groups.group_of_unit]

    def seconds(self, asked):
        """The seconds of pieces with some of their units, None where they cannot be measured.

        Args:
            asked: A list of pairs of a `Piece` and of pairs as for `kept`.
        """
        return self._table.of(
            [self._pieces.small_model(piece, self.kept(state)) for piece, state in asked]
        )

    def _measure(self, grids):
        asked = [(grid.piece, state) for grid in grids for state in grid.states()]
        found = iter(self.seconds(asked))
        for grid in grids:
            grid.fill([next(found) for _ in grid.states()])

    def _fill_unmeasured(self, grids):
        unknown = [grid for grid in grids if grid.values is None]
        self.unmeasured = tuple(grid.piece.operation.name for grid in unknown)
        known = [(g.dense, g.piece.macs) for g in grids if g.values is not None and g.piece.macs]
        macs = sum(count for _, count in known)
        speed = sum(seconds for seconds, _ in known) / macs if macs else 0.0
        for grid in unknown:
            grid.fill_from_macs(speed)

    def terms(self, kept):
        """The nanoseconds of each piece; those whose counts changed are worked out again."""
        counts = self._counts @ kept[self._first].astype(np.int64)
        if self._last is None:
            terms, touched = np.zeros(len(self.grids), np.int64), range(len(self.grids))
        else:
            before, terms = self._last[0], self._last[1].copy()
            changed = np.flatnonzero(before != counts)
            touched = np.unique(np.searchsorted(self._starts, changed, "right") - 1).tolist()
        for index in touched:
            now = counts[self._starts[index] : self._starts[index + 1]]
            terms[index] = round(self.grids[index].at(tuple(now.tolist())) * _NANOSECONDS)
        self._last = counts, terms
        return terms

    def depends(self):
        """The units of the dimensions of each piece."""
        found = []
        for grid in self.grids:
            is_inside = np.zeros(len(self._first), bool)
            for dimension in grid.dimensions:
                is_inside[dimension.groups] = True
            found.append(np.flatnonzero(is_inside[self._groups.group_of_unit]))
        return found


@dataclass(frozen=True, eq=False)
class Dimension:
    """Removal groups that are alike for a piece.

    Attributes:
        groups: An array of their numbers, the lowest scores first.
        each: How many positions of an axis each of them has.
        rest: How many positions of that axis others have.
    """

    groups: np.ndarray
    each: int
    rest: int

    def levels(self, shares):
        """Counts of groups at about these shares, where the axis has a multiple of 16, 8 or 4."""
        size = len(self.groups)
        widest = self.each * size + self.rest
        multiple = next((m for least, m in _ALIGNED if widest >= least), 1)
        found = {size}
        for share in shares[:-1]:
            width = max(multiple, multiple * round(share * widest / multiple))
            count = round((width - self.rest) / self.each)
            found.add(min(max(1, count), size))
        return np.array(sorted(found))


class _Grid:
    """The seconds of a piece at a grid of counts.

    With more than two dimensions, all have the same share, and one coordinate stands for it.
    """

    def __init__(self, piece, dimensions):
        self.piece, self.dimensions = piece, dimensions
        self._is_diagonal = len(dimensions) > 2
        self._cache = {}
        self.values, self.is_measured = None, False
        if self._is_diagonal:
            self._axes = [np.array(_LEVELS[1])]
            self._total = sum(d.each * len(d.groups) for d in dimensions)
        else:
            shares = _LEVELS.get(len(dimensions), ())
            self._axes = [dimension.levels(shares) for dimension in dimensions]

    def states(self):
        """The counts of groups of all dimensions, at each point of the grid."""
        points = list(itertools.product(*(axis.tolist() for axis in self._axes)))
        if self._is_diagonal:
            points = [
                [max(1, round(s * len(d.groups))) for d in self.dimensions] for (s,) in points
            ]
        return [list(zip(self.dimensions, point, strict=True)) for point in points]

    def fill(self, seconds):
        """Sets the values, a list in the order of the states, unless one is missing.

        What takes longer than with more units was disturbed: it gets the time of those.
        """
        if None in seconds:
            return
        values = np.array(seconds, float).reshape([len(axis) for axis in self._axes])
        for axis in range(values.ndim):
            reverse = np.flip(values, axis)
            values = np.flip(np.minimum.accumulate(reverse, axis), axis)
        self.values, self.is_measured = values, True

    def fill_from_macs(self, speed):
        """Sets the values by the multiply-accumulates, of which each takes so many seconds."""
        dense = speed * (self.piece.macs or 0)
        shares = [axis / axis[-1] for axis in self._axes]
        self.values = dense * functools.reduce(np.multiply.outer, shares, np.ones(()))

    @property
    def dense(self):
        """The seconds with all units."""
        return float(self.values.reshape(-1)[-1])

    def at(self, counts):
        """The seconds where so many groups of each dimension are kept."""
        if counts not in self._cache:
            coordinates = counts
            if self._is_diagonal:
                left = sum(d.each * c for d, c in zip(self.dimensions, counts, strict=True))
                coordinates = (left / self._total,)
            self._cache[counts] = self._interpolated(coordinates)
        return self._cache[counts]

    def _interpolated(self, coordinates):
        values = self.values
        for axis, x in zip(self._axes, coordinates, strict=True):  # always the first that is left
            if len(axis) == 1:
                values = values[0]
                continue
            low = min(max(int(np.searchsorted(axis, x, "right")) - 1, 0), len(axis) - 2)
            weight = max(0.0, (x - axis[low]) / (axis[low + 1] - axis[low]))
            values = (1 - weight) * values[low] + weight * values[low + 1]
            values = values * (_LEAST + (1 - _LEAST) * min(1.0, x / axis[0]))
        return float(values)
