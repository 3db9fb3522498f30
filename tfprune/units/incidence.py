"""The incidence matrix of coupled units, and which units are equivalent or tied by it."""

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components


def incidence(coupling, more=()):
    """How often each unit occurs in each slice of a weight and in each tensor.

    Args:
        coupling: The units of a model.
        more: Arrays of units, for further columns.

    Returns:
        A sparse matrix (units, arrays) of unsigned integers. Its columns are `coupling.slices`,
        then `coupling.tensor_labels`, then `more`.
    """
    labels = [piece.labels for piece in coupling.slices] + list(coupling.tensor_labels.values())
    arrays = [coupling.roots[each].reshape(-1) for each in labels] + list(more)
    columns = np.repeat(np.arange(len(arrays)), [len(array) for array in arrays])
    units = np.concatenate([np.empty(0, int), *arrays])
    ones = np.ones(len(units), np.uint64)
    return csr_array((ones, (units, columns)), shape=(coupling.size, len(arrays)))


def row_hashes(matrix):
    """A number for each row of an incidence matrix, such that a sum of rows has the sum of numbers.

    Equal rows have equal numbers. Two others have the same by chance in one of 2**64 cases.
    """
    draw = np.random.default_rng(0)
    return matrix @ draw.integers(2**63, size=matrix.shape[1], dtype=np.uint64)


def tied_by_columns(arrays, size):
    """Connected components of `range(size)`, where each column of an array ties its members.

    Example:

    >>> tied_by_columns([np.array([[0, 1], [2, 3]]), np.array([[3], [4]])], 6).tolist()
    [0, 1, 0, 1, 1, 2]
    """
    pairs = [np.stack([np.broadcast_to(a[:1], a.shape), a]).reshape(2, -1) for a in arrays]
    edges = np.concatenate([np.empty((2, 0), int), *pairs], axis=1)
    ones = np.ones(edges.shape[1], bool)
    graph = csr_array((ones, tuple(edges)), shape=(size, size))
    return connected_components(graph, directed=False)[1]
