"""Isotonic regression of prices."""

import numpy as np
from scipy.optimize import isotonic_regression


def rising(prices):
    """Prices in the order of removal, as scores that rise: those that would fall are averaged.

    So a ranking of the prices of several orders takes each in its order, and the mean of each run
    is the price of one of it where the run goes as a whole (isotonic regression).

    Example:

    >>> np.round(rising(np.array([1.0, 4.0, 2.0, 5.0])), 6).tolist()
    [1.0, 3.0, 3.0, 5.0]
    """
    if not len(prices):
        return np.empty(0)
    means = isotonic_regression(prices).x
    return means + 1e-12 * (means.max() or 1.0) * np.arange(len(means))
