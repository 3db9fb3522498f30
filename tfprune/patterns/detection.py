"""Detection of the pattern of a mask. Pure functions of NumPy arrays."""

import math

import numpy as np

_GROUP_SIZES = (2, 4, 8, 16, 32, *(n for n in range(3, 32) if n not in (4, 8, 16)))
"""The lengths of groups that are tried, those that hardware knows first."""

_MOST = 0.75
"""How many groups keep as many as the pattern allows; less is a coincidence."""


def pattern_of(mask, matrix=None):
    """Returns the most regular pattern of a mask, as a string.

    | | |
    |---|---|
    | "dense" | nothing is pruned |
    | "units" | whole rows and columns of the matrix form, in all positions of a window |
    | "blocks 4x1" | blocks of rows x columns, each kept or pruned as a whole; the largest |
    | "2:4" | at most two of four consecutive inputs stay, and two in most groups |
    | "2:4 of outputs" | the same along the outputs |
    | "unstructured" | none of these |

    The first that holds counts. In a weight of one axis each element is that of a unit. A mask of
    few elements may have a pattern by chance.

    Args:
        mask: Boolean array, False = pruned.
        matrix: `MatrixAxes`, from `matrix_axes(layer, name)`. Without it a mask of several axes is
            "dense" or "unstructured".

    Returns:
        A string.

    Example:

    >>> from tfprune.patterns import MatrixAxes
    >>> axes = MatrixAxes(inputs=(0,), outputs=(1,))
    >>> mask = np.array([[1, 0], [1, 0], [0, 1], [0, 1]], bool)
    >>> pattern_of(mask, axes), pattern_of(mask[[0, 2, 1, 3]], axes)
    ('blocks 2x1', '1:2')
    """
    if mask.all():
        return "dense"
    if mask.ndim < 2:
        return "units"
    if matrix is None:
        return "unstructured"
    kept = matrix.to_matrix(mask)
    if _is_units(kept):
        return "units"
    rows, columns = _block_size(kept, axis=1), _block_size(kept, axis=2)
    if rows * columns > 1:
        return f"blocks {rows}x{columns}"
    for axis, suffix in ((1, ""), (2, " of outputs")):
        groups = _groups(kept, axis)
        if groups is not None:
            return f"{groups[0]}:{groups[1]}{suffix}"
    return "unstructured"


def _is_units(kept):
    """Whether what is kept is the rows that live, times the columns that live."""
    rows, columns = kept.any(axis=(0, 2)), kept.any(axis=(0, 1))
    return np.array_equal(kept, np.broadcast_to(rows[:, None] & columns, kept.shape))


def _block_size(kept, axis):
    """The greatest length of which all borders between kept and pruned are multiples."""
    differs = np.diff(kept, axis=axis).any(axis=tuple({0, 1, 2} - {axis}))
    borders = np.flatnonzero(differs) + 1
    return math.gcd(*borders.tolist()) or kept.shape[axis]


def _groups(kept, axis):
    """(keep, of) of the sparsest groups of which none keeps more, and most as many."""
    lines = np.moveaxis(kept, axis, -1)
    lines = lines[lines.any(axis=-1)]  # a unit that is gone as a whole says nothing
    found = []
    for of in _GROUP_SIZES:
        whole = lines.shape[-1] // of * of
        if whole:
            counts = lines[:, :whole].reshape(len(lines), -1, of).sum(axis=-1)
            keep = max(int(counts.max()), int(lines[:, whole:].sum(axis=-1).max(initial=0)))
            if keep < of and (counts == keep).mean() >= _MOST:
                found.append((keep, of))
    return min(found, key=lambda group: group[0] / group[1], default=None)
