"""Optimal brain surgeon in one sweep over the inputs of a matrix, as SparseGPT does it.

For outputs X W with H = X'X + damping, the error of other weights W + D is tr(D' H D). Inputs are
decided one after the other. When the elements w of input j are set to their values q, those of the
inputs after it take over as well as they can:

    e = (w - q) / C_jj,    W[k] -= C_jk e  for k > j,    H^-1 = C'C, C upper triangular

which is the closed form of optimal brain surgeon, with the inputs before j fixed: the error grows
by e^2. An element that is pruned has q = 0; one that is kept q = w, so e = 0; one that may not
change has the value it had.

Reference:
    E. Frantar, D. Alistarh, "SparseGPT: Massive Language Models Can Be Accurately Pruned in
    One-Shot", https://arxiv.org/abs/2301.00774, algorithm 1; B. Hassibi, D. Stork, "Second Order
    Derivatives for Network Pruning: Optimal Brain Surgeon", 1992.
"""

import numpy as np
import scipy.linalg

LAZY_ROWS = 128
"""Over how many inputs updates of those after them are gathered, to make one matrix product."""


class Hessian:
    """A Hessian H and the factor C of its damped inverse, in the memory of one array.

    C'C = (H + damping * mean(diag H) * I)^-1 with C upper triangular. H = U U' with U upper
    triangular, from a Cholesky decomposition in reversed order, and C is the inverse of U; so no
    inverse of H is decomposed, which rounding may have made indefinite. Where rounding is too
    coarse for the damping, ten times as much is taken.

    Args:
        array: Array (n, n) in C order, symmetric, at least positive semidefinite. It is used up.
        damping: Float above 0.

    Attributes:
        upper: Array (n, n) of which the upper triangle is C. What is below is something else.

    Example:

    >>> factor = np.triu(Hessian(np.array([[2.0, 1.0], [1.0, 2.0]]), 1e-9).upper)
    >>> np.round(factor.T @ factor * 3, 6).tolist()
    [[2.0, -1.0], [-1.0, 2.0]]
    """

    def __init__(self, array, damping):
        _reverse(array)
        # What LAPACK writes to, in the order of its memory: C in the lower triangle, all reversed.
        # H stays in the upper one, but for its diagonal.
        self._array = array.T
        self._diagonal = np.diagonal(array).copy()
        potrf, trtri = scipy.linalg.get_lapack_funcs(("potrf", "trtri"), (self._array,))
        mean = float(self._diagonal.mean(dtype="float64"))
        while True:
            added = damping * mean if mean > 0 else 1.0
            np.fill_diagonal(self._array, self._diagonal + self._diagonal.dtype.type(added))
            lower, failed = potrf(self._array, lower=True, overwrite_a=True, clean=False)
            if not failed:
                break
            damping *= 10
            for j in range(len(array) - 1):
                array[j, j + 1 :] = array[j + 1 :, j]
        lower, _ = trtri(lower, lower=True, overwrite_c=True)
        self._array = lower
        self.upper = lower[::-1, ::-1]

    def errors(self, change):
        """The squared errors of the outputs, diag(D' H D), that a change of the weights makes.

        Args:
            change: Array (n, outputs).
        """
        change = change[::-1]
        (symm,) = scipy.linalg.get_blas_funcs(("symm",), (self._array,))
        product = symm(1.0, self._array, change, lower=0)
        product += (self._diagonal - np.diagonal(self._array))[:, None] * change
        return np.einsum("ij,ij->j", change, product)


def _reverse(array):
    """Reverses both axes of a square array in place, which is the order of its memory."""
    flat, size = array.reshape(-1), array.size
    for start in range(0, size // 2, 2**18):
        end = min(start + 2**18, size // 2)
        first = flat[start:end].copy()
        flat[start:end] = flat[size - end : size - start][::-1]
        flat[size - end : size - start] = first[::-1]


def sweep(weights, factor, tiles, select, fixed=None):
    """Decides input by input which elements are pruned, and updates those after it, in place.

    Args:
        weights: Array (inputs, outputs). It becomes the new weights.
        factor: `Hessian.upper`.
        tiles: Pairs of a first and a last input (exclusive), in order, all inputs together: the
            mask of each is selected when the sweep gets there.
        select: Function from the number of a tile, and its scores w^2 / C_jj^2, to the mask of
            what is kept in it.
        fixed: Boolean array of the elements that keep their values, or None.

    Returns:
        A boolean array, False = pruned.
    """
    kept, before = np.ones(weights.shape, bool), None if fixed is None else weights.copy()
    diagonal = np.diagonal(factor)[:, None]
    for lot in _lots(tiles):
        start, stop = tiles[lot[0]][0], tiles[lot[-1]][1]
        errors = np.empty((stop - start, weights.shape[1]), weights.dtype)
        for number in lot:
            first, end = tiles[number]
            kept[first:end] = select(number, np.square(weights[first:end] / diagonal[first:end]))
            for j in range(first, end):
                values = np.where(kept[j], weights[j], 0)
                if fixed is not None:
                    values = np.where(fixed[j], before[j], values)
                errors[j - start] = (weights[j] - values) / factor[j, j]
                weights[j] = values
                weights[j + 1 : stop] -= np.outer(factor[j, j + 1 : stop], errors[j - start])
        weights[stop:] -= factor[start:stop, stop:].T @ errors
    return kept


def _lots(tiles):
    """The numbers of consecutive tiles of at most `LAZY_ROWS` inputs, or of one tile."""
    lots, size = [], 0
    for number, (first, end) in enumerate(tiles):
        size += end - first
        if not lots or size > LAZY_ROWS:
            lots.append([])
            size = end - first
        lots[-1].append(number)
    return lots
