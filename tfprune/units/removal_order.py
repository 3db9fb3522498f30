"""The order in which units go by optimal brain surgeon, each with its price when its turn comes.

For outputs X W with H = X'X, the least error of the outputs without the inputs R, the other weights
fitted anew, is tr(W_R' [(H^-1)_RR]^-1 W_R). After inputs are gone, W and H^-1 of the others become

    W -= (H^-1)_:R [(H^-1)_RR]^-1 W_R,      H^-1 -= (H^-1)_:R [(H^-1)_RR]^-1 (H^-1)_R:

which are the weights of least squares, and the inverse without these inputs. So the prices of the
order add up to the error of all that went. Units that stand in several products have the sum of
their prices, and each product of some of the units needs no more of H^-1 than their rows.
"""

import numpy as np
import scipy.linalg

PORTION = 512
"""Prices are worked out anew after each unit up to so many, and after so many portions of more."""


class UnitRows:
    """The rows of units in one matrix that inputs are multiplied with.

    Args:
        inverse: Array (rows, rows), the inverse of the damped H at the rows of the units.
        weights: Array (rows, outputs), weighted so that squares add up to the error.
        units: Array (rows,), the number of the unit that each row belongs to.

    Example:

    >>> rows = UnitRows(np.eye(3), np.array([[1.0], [2.0], [3.0]]), np.array([0, 0, 1]))
    >>> rows.prices()
    array([5., 9.])
    """

    def __init__(self, inverse, weights, units):
        self._inverse = np.array(inverse, "float64")
        self._weights = _shortened(np.array(weights, "float64"))
        self.units, place, count = np.unique(units, return_inverse=True, return_counts=True)
        self._slots = np.full((len(self.units), count.max(initial=0)), -1)
        order = np.argsort(place, kind="stable")
        within = np.arange(len(order)) - np.repeat(np.cumsum(count) - count, count)
        self._slots[place[order], within] = order
        if (self._slots < 0).any():  # units with fewer rows get some of no effect
            self._pad(int((self._slots < 0).sum()))

    def prices(self):
        """The price of each of `units`, an array."""
        weights = self._weights[self._slots]
        if self._slots.shape[1] == 1:
            row = self._slots[:, 0]
            return np.square(weights[:, 0]).sum(axis=1) / self._inverse[row, row]
        blocks = self._inverse[self._slots[:, :, None], self._slots[:, None, :]]
        return np.einsum("nrk,nrk->n", weights, np.linalg.solve(blocks, weights))

    def remove(self, units):
        """Removes units, and makes up for them in the weights of the others."""
        removed = np.isin(self.units, units)
        rows = self._slots[removed].reshape(-1)
        across = self._inverse[:, rows]
        factor = scipy.linalg.cho_factor(across[rows])
        self._weights -= across @ scipy.linalg.cho_solve(factor, self._weights[rows])
        self._inverse -= across @ scipy.linalg.cho_solve(factor, across.T)
        self.units, self._slots = self.units[~removed], self._slots[~removed]
        if 4 * self._slots.size < 3 * len(self._inverse):
            left = self._slots.reshape(-1)
            self._inverse, self._weights = self._inverse[np.ix_(left, left)], self._weights[left]
            self._slots = np.arange(left.size).reshape(self._slots.shape)

    def _pad(self, missing):
        rows = len(self._inverse)
        self._slots[self._slots < 0] = np.arange(rows, rows + missing)
        self._inverse = scipy.linalg.block_diag(self._inverse, np.eye(missing))
        self._weights = np.pad(self._weights, ((0, missing), (0, 0)))


def _shortened(weights):
    """Weights of no more columns than rows with the same sums of products of any two rows."""
    rows, columns = weights.shape
    return weights if columns <= rows else scipy.linalg.qr(weights.T, mode="r")[0][:rows].T


def removal_order(may_go, matrices, others, aggregate="sum"):
    """The order in which units go, the cheapest first, and the price of each when its turn comes.

    Args:
        may_go: Boolean array (units,).
        matrices: `UnitRows`s; they are used up.
        others: Array (units,), what units cost besides, whatever went before.
        aggregate: "sum", "mean" or "max", over the matrices that a unit has rows in, and `others`.

    Returns:
        An array of units, and one of prices.

    Example:

    >>> rows = UnitRows(np.eye(3), np.array([[3.0], [2.0], [1.0]]), np.arange(3))
    >>> order, prices = removal_order(np.array([True, True, False]), [rows], np.zeros(3))
    >>> order.tolist(), prices.tolist()
    ([1, 0], [4.0, 9.0])
    """
    left, combine = np.array(may_go), _COMBINED[aggregate]
    portion = -(-int(left.sum()) // PORTION)
    parts = [_in_units(matrix, len(left)) for matrix in matrices]
    order, prices = [np.empty(0, int)], [np.empty(0)]
    while left.any():
        now = np.where(left, combine([others, *parts]), np.inf)
        cheapest = np.argsort(now, kind="stable")[: min(portion, int(left.sum()))]
        order.append(cheapest)
        prices.append(now[cheapest])
        left[cheapest] = False
        for place, matrix in enumerate(matrices if left.any() else ()):
            if np.isin(matrix.units, cheapest).any():
                matrix.remove(cheapest)
                parts[place] = _in_units(matrix, len(left))
    return np.concatenate(order), np.concatenate(prices)


_COMBINED = {
    "sum": lambda parts: np.sum(parts, axis=0),
    "mean": lambda parts: np.sum(parts, axis=0) / np.maximum(np.count_nonzero(parts, axis=0), 1),
    "max": lambda parts: np.max(parts, axis=0),
}


def _in_units(matrix, count):
    found = np.zeros(count)
    found[matrix.units] = matrix.prices()
    return found
