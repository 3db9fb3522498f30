"""Block sparsity: whole blocks of the matrix form of a weight."""

import keras
import numpy as np

from tfprune._tools.checks import is_integer
from tfprune.patterns.matrix import matrix_or_default
from tfprune.patterns.pattern import Pattern
from tfprune.patterns.top_k import checked_scores, pruned_count, writable_mask

_POOLINGS = ("mean", "max")


@keras.saving.register_keras_serializable("tfprune")
class Block(Pattern):
    """Block sparsity: prunes blocks of rows x columns of the matrix form, lowest scores first.

    The score of a block is the mean or the maximum of the scores of its elements that are not
    pruned. Blocks go in the order of their scores, of equal ones the last in C order of the matrix
    form first, until the number of pruned elements is the nearest to `sparsity * size` that whole
    blocks can reach, the lower of two that are equally near. Below a sparsity of 1 at least one
    block stays; 1 prunes all.

    Blocks at the edges, where the shape does not divide the matrix, are smaller. Elements that are
    pruned already count one by one, whatever their blocks are. A block with a frozen element stays.

    Args:
        shape: Tuple of two integers: rows (inputs) and columns (outputs) of a block.
        pooling: "mean" or "max": how the scores of a block become its score.

    Raises:
        ValueError: If an argument is out of its range.

    Example:

    >>> scores = np.array([[4.0, 1.0], [3.0, 2.0], [0.0, 5.0]])
    >>> Block((2, 1)).mask(scores, 0.5)
    array([[ True, False],
           [ True, False],
           [False,  True]])
    """

    uses_matrix = True

    def __init__(self, shape, pooling="mean"):
        is_pair = isinstance(shape, (tuple, list)) and len(shape) == 2
        if not is_pair or not all(is_integer(size) and size >= 1 for size in shape):
            raise ValueError(
                "Argument `shape` must be two integers of at least 1, rows and columns. "
                f"Received: shape={shape!r}."
            )
        if pooling not in _POOLINGS:
            raise ValueError(
                f"Argument `pooling` must be one of {_POOLINGS}. Received: pooling={pooling!r}."
            )
        self.shape = tuple(int(size) for size in shape)
        self.pooling = pooling

    def mask(self, scores, sparsity, *, trainable=None, frozen=None, matrix=None):
        """Which elements stay; see `Pattern.mask`.

        Raises:
            ValueError: As `top_k_mask`; or if scores that have not two axes come without their
                matrix form.
        """
        scores, kept, frozen = checked_scores(scores, trainable, frozen)
        axes = matrix_or_default(matrix, scores)
        count = pruned_count(sparsity, scores.size)
        mask = writable_mask(kept, scores)
        count -= scores.size - np.count_nonzero(mask)
        if count <= 0:
            return mask
        living = axes.to_matrix(mask)
        sizes = self._pooled(np.add, living, np.int64)
        stay = np.zeros(sizes.shape, bool)
        if frozen is not None:
            stay = self._pooled(np.logical_or, axes.to_matrix(frozen) & living, bool)
        order = self._order(axes.to_matrix(scores), living, sizes, ~stay & (sizes > 0))
        if sparsity < 1 and not stay.any():
            order = order[:-1]
        pruned = np.cumsum([0, *sizes.ravel()[order]])
        selected = np.argmin(np.abs(pruned - count))  # of equals the first, which prunes less
        if selected == len(order):  # no block is left but those with frozen elements
            self._check_frozen(sparsity, count - pruned[selected], sizes[stay])
        goes = np.zeros(sizes.shape, bool)
        goes.ravel()[order[:selected]] = True
        rows, columns = self.shape
        goes = goes.repeat(rows, axis=1).repeat(columns, axis=2)
        goes = goes[:, : living.shape[1], : living.shape[2]]
        return mask & ~axes.from_matrix(goes, scores.shape)

    def _order(self, scores, living, sizes, candidates):
        """The flat places of the candidate blocks, the first to be pruned first."""
        if self.pooling == "mean":
            total = self._pooled(np.add, np.where(living, scores, 0), np.float64)
            pooled = total / np.maximum(sizes, 1)
        else:
            pooled = self._pooled(np.maximum, np.where(living, scores, -np.inf), scores.dtype)
        last_first = np.flatnonzero(candidates)[::-1]
        return last_first[np.argsort(pooled.ravel()[last_first], kind="stable")]

    def _pooled(self, operation, matrix, dtype):
        """A value for each block; what fills up those at the edges changes none."""
        _, inputs, outputs = matrix.shape
        rows, columns = self.shape
        if inputs % rows or outputs % columns:
            nothing = -np.inf if operation is np.maximum else 0
            widths = [(0, 0), (0, -inputs % rows), (0, -outputs % columns)]
            matrix = np.pad(matrix, widths, constant_values=nothing)
        whole = (matrix.shape[1] // rows, rows, matrix.shape[2] // columns, columns)
        return operation.reduce(matrix.reshape(len(matrix), *whole), axis=(2, 4), dtype=dtype)

    def _check_frozen(self, sparsity, missing, frozen_sizes):
        if any(2 * missing > size for size in frozen_sizes):  # with it the count would be nearer
            raise ValueError(
                f"Cannot reach a sparsity of {sparsity}: {missing} more elements would have to be "
                f"pruned, but the blocks that are left, {len(frozen_sizes)} of {self!r}, hold "
                "frozen elements. Lower the sparsity, or unfreeze some."
            )

    def get_config(self):
        """The arguments that make this pattern again."""
        return {"shape": self.shape, "pooling": self.pooling}
