"""Tiles of the matrices of a weight, in each of which a part of its mask is selected.

A tile is a block of inputs by some outputs. How many elements each loses is settled before, so that
the weight as a whole loses exactly as many as its sparsity says.
"""

from dataclasses import dataclass

import numpy as np

from tfprune.criteria.weight_uses import moved
from tfprune.patterns import NM, Block, Unstructured, matrix_axes

ELEMENTS_AT_ONCE = 2**19
"""How many elements of a matrix are worked on at once."""


class TilingError(ValueError):
    """The pattern of a weight does not lie in tiles; the message says why."""


@dataclass(frozen=True)
class Tile:
    """Inputs `first` to `end` and the outputs of a slice, of one group of a matrix.

    Attributes:
        matrix, group: The numbers of the matrix and of the group in it.
        columns: Slice of outputs.
        first, end: Of the inputs, the end exclusive.
    """

    matrix: int
    group: int
    columns: slice
    first: int
    end: int

    @property
    def index(self):
        """The index of the tile in its matrix."""
        return self.group, slice(self.first, self.end), self.columns


def check_pattern(pattern):
    """Raises a `ValueError` unless masks of a pattern can be selected tile by tile."""
    if type(pattern) not in (Unstructured, NM, Block):
        raise ValueError(
            "SparseGPT selects masks for some inputs at a time, which it can for single elements, "
            f"`NM` and `Block`. Received: pattern={pattern!r}."
        )


def tiles_of(weight, matrices, pattern, block_size):
    """The tiles of a weight, in the order in which they are decided.

    Args:
        weight: `PrunableWeight`.
        matrices: The `Matrix` objects it consists of.
        pattern: `Unstructured`, `NM` or `Block`.
        block_size: Integer, how many inputs a tile has at most, if the pattern allows it.

    Returns:
        A list of `Tile`s.

    Raises:
        TilingError: If N:M groups or blocks do not lie in the matrices.
    """
    rows, columns = {NM: _nm_unit, Block: lambda p: p.shape}.get(type(pattern), lambda _: (1, 1))(
        pattern
    )
    tiles = []
    for number, matrix in enumerate(matrices):
        placeholder = np.broadcast_to(False, weight.shape)
        groups, inputs, outputs = moved(placeholder, matrix.steps).shape
        segment = inputs
        if isinstance(pattern, (NM, Block)):
            segment = _segment(weight, matrices, (groups, inputs, outputs))
            if groups > 1 and outputs % columns:
                raise TilingError("groups of its pattern would reach over groups of the layer")
        high = rows if isinstance(pattern, NM) and pattern.axis == -2 else block_size
        high = max(high // rows, 1) * rows
        wide = max(ELEMENTS_AT_ONCE // inputs // columns, 1) * columns
        for group in range(groups):
            for left in range(0, outputs, wide):
                tiles += [
                    Tile(number, group, slice(left, left + wide), first, min(first + high, end))
                    for start in range(0, inputs, segment)
                    for end in [start + segment]
                    for first in range(start, end, high)
                ]
    return tiles


def _nm_unit(pattern):
    return (pattern.of, 1) if pattern.axis == -2 else (1, pattern.of)


def _segment(weight, matrices, shape):
    """How many consecutive rows belong to one position of a window, beyond which nothing reaches.

    The rows of the product and those of the matrix form of patterns must be the same.
    """
    groups, inputs, outputs = shape
    index = np.arange(np.prod(weight.shape), dtype="int64").reshape(weight.shape)
    form = matrix_axes(weight.layer, weight.name).to_matrix(index)
    if len(matrices) == 1 and form.size == groups * inputs * outputs:
        ours = moved(index, matrices[0].steps)
        theirs = form.reshape(inputs, groups, outputs).swapaxes(0, 1)
        if np.array_equal(ours, theirs):
            # The window of a depthwise convolution is its inputs, one matrix for all channels.
            return form.shape[1]
    raise TilingError("its matrix form for patterns is another than that of its products")


def shares(tiles, matrices, kept, frozen, count):
    """How many elements each tile loses, in proportion to its size as far as that can be.

    Args:
        tiles: List of `Tile`s.
        matrices: The `Matrix` objects.
        kept, frozen: Boolean arrays of the weight's shape.
        count: Integer, how many elements of the weight are pruned in the end.

    Returns:
        Arrays of integers, one a tile: how many are pruned already, and how many go; with the
        number of elements.
    """
    forms = [tuple(moved(mask, m.steps) for mask in (kept, kept & ~frozen)) for m in matrices]
    parts = [[form[tile.index] for form in forms[tile.matrix]] for tile in tiles]
    sizes = np.array([part[0].size for part in parts])
    pruned = sizes - [np.count_nonzero(part[0]) for part in parts]
    available = np.array([np.count_nonzero(part[1]) for part in parts])
    return sizes, pruned, spread(sizes, pruned, available, count - pruned.sum())


def spread(sizes, pruned, available, count):
    """Spreads a number of elements over tiles so that their sparsities become as equal as they can.

    Args:
        sizes, pruned, available: Integer arrays: how many elements each tile has, has lost
            already, and could lose.
        count: Integer, how many are to go, at most those that are available.

    Returns:
        An integer array with `count` as its sum.

    Example:

    >>> spread(np.array([4, 4, 4]), np.array([0, 3, 0]), np.array([4, 1, 1]), 4).tolist()
    [3, 0, 1]
    """
    if count <= 0:
        return np.zeros(len(sizes), int)
    low, high = 0.0, 1.0

    def exact(level):
        return np.clip(level * sizes - pruned, 0, available)

    for _ in range(60):
        level = (low + high) / 2
        low, high = (level, high) if exact(level).sum() < count else (low, level)
    total = np.round(np.cumsum(exact(high))).astype(int)
    total[-1] = count
    return np.diff(total, prepend=0)
