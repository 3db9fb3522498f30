"""Prices of weights by optimal brain surgeon, and the fit of those that are kept.

For one output x w of a layer with H = sum x x', the least squared error without the input j, the
other weights fitted anew, grows by w_j^2 / [H^-1]_jj. After inputs R are gone,

    w -= [H^-1]_:R [[H^-1]_RR]^-1 w_R,      H^-1 -= [H^-1]_:R [[H^-1]_RR]^-1 [H^-1]_R:

hold for the others. So each output has an order in which its inputs go, with a price for each when
its turn comes.

Reference:
    E. Frantar, D. Alistarh, "Optimal Brain Compression", https://arxiv.org/abs/2208.11580; B.
    Hassibi, D. Stork, "Second Order Derivatives for Network Pruning: Optimal Brain Surgeon", 1992.
"""

import numpy as np
import scipy.linalg
from scipy.linalg.blas import dgemm

from tfprune._tools.isotonic import rising

PORTION = 0.05
"""Which share of the inputs that an output still has goes before prices are worked out anew; one
by one they go where that is less than one."""


def damped(gram, damping):
    """H with damping times the mean of its diagonal, where that is not 0, added to the diagonal."""
    return gram + np.eye(len(gram)) * ridge(gram, damping)


def ridge(gram, damping):
    """What `damped` adds to the diagonal."""
    diagonal = np.diag(gram)
    used = diagonal[diagonal > 0]
    return damping * (float(used.mean()) if used.size else 1.0)


def removal_order(inverse, weights):
    """The order in which the inputs of one output go, and their prices when their turn comes.

    Args:
        inverse: Array (inputs, inputs), the inverse of the damped H.
        weights: Array (inputs,).

    Returns:
        Arrays (inputs,): the inputs in the order in which they go, and the prices.

    Example:

    >>> order, prices = removal_order(np.eye(3), np.array([1.0, -3.0, 2.0]))
    >>> order.tolist(), prices.tolist()
    ([0, 2, 1], [1.0, 4.0, 9.0])
    """
    inverse, weights = np.array(inverse, "float64", order="F"), np.array(weights, "float64")
    order, prices = [np.empty(0, int)], [np.empty(0)]
    inputs, is_left = np.arange(len(weights)), np.ones(len(weights), bool)
    while left := np.count_nonzero(is_left):
        if 2 * left <= len(is_left):  # rows of those that went are 0 and only take time
            inverse = np.asfortranarray(inverse[np.ix_(is_left, is_left)])
            inputs, weights, is_left = inputs[is_left], weights[is_left], is_left[is_left]
        variances = np.where(is_left, np.diag(inverse), 1.0)
        now = np.where(is_left, np.square(weights) / variances, np.inf)
        lowest = np.argsort(now, kind="stable")[: max(int(PORTION * left), 1)]
        order.append(inputs[lowest])
        prices.append(now[lowest])
        beside = inverse[:, lowest]
        right = np.concatenate([weights[lowest, None], beside.T], axis=1)
        solved = scipy.linalg.solve(beside[lowest], right, assume_a="pos", check_finite=False)
        weights -= beside @ solved[:, 0]
        inverse = dgemm(-1.0, beside, solved[:, 1:], 1.0, inverse, overwrite_c=True)
        is_left[lowest] = False
    return np.concatenate(order), np.concatenate(prices)


def prices(gram, weights, may_go, damping, block_size):
    """The price of each element of a matrix when its turn comes, such that they rise in its output.

    Args:
        gram: Array (inputs, inputs), H.
        weights: Array (inputs, outputs).
        may_go: Boolean array (inputs, outputs), the elements that are not pruned, and may change.
        damping: Float above 0.
        block_size: Integer, how many inputs at most are taken to depend on one another: of more,
            those in the same blocks of inputs that follow one another are.

    Returns:
        An array (inputs, outputs), 0 where an element may not go.

    Example:

    >>> weights, may_go = np.array([[2.0], [1.0]]), np.ones((2, 1), bool)
    >>> np.round(prices(np.eye(2), weights, may_go, 1e-9, 512), 6).tolist()
    [[4.0], [1.0]]
    """
    found = np.zeros(weights.shape)
    gram = damped(gram, damping)
    for rows, columns in _patterns(may_go):
        for block in np.array_split(rows, max(-(-len(rows) // block_size), 1)):
            inverse = scipy.linalg.inv(gram[np.ix_(block, block)]) if len(block) else None
            for column in columns if len(block) else ():
                order, of_order = removal_order(inverse, weights[block, column])
                found[block[order], column] = rising(of_order)
    return found


def fitted(moments, group, before, dense, may_change, damping):
    """The weights with which a layer of the pruned model does best what the dense layer does.

    Of the weights W nearest to those before, W0, and with masks,

        argmin ||X W - Z V||^2 + ridge ||W - W0||^2

    which misses the outputs of the dense layer no more than W0 does.

    Args:
        moments: `tfprune.criteria.dense_moments.DenseMoments`.
        group: Integer.
        before: Array (inputs, outputs), W0, 0 in what is pruned.
        dense: Array (inputs, outputs), V.
        may_change: Boolean array (inputs, outputs).
        damping: Float above 0, the ridge relative to the mean of the diagonal of X'X.

    Returns:
        An array (inputs, outputs).
    """
    gram, found = moments.gram[group], before.copy()
    missing = moments.cross[group] @ dense - gram @ before
    gram = damped(gram, damping)
    for rows, columns in _patterns(may_change):
        if len(rows):
            found[np.ix_(rows, columns)] += scipy.linalg.solve(
                gram[np.ix_(rows, rows)], missing[np.ix_(rows, columns)], assume_a="pos"
            )
    return found


def _patterns(mask):
    """Pairs of the inputs that are True, and of the outputs in which they are the same."""
    patterns, which = np.unique(mask, axis=1, return_inverse=True)
    for index, rows in enumerate(patterns.T):
        yield np.flatnonzero(rows), np.flatnonzero(which.ravel() == index)
