"""Isotonic regression of prices."""

import numpy as np


def rising(prices):
    """Prices in the order of removal, as scores that rise: those that would fall are averaged.

    So a ranking of the prices of several orders takes each in its order, and the mean of each run
    is the price of one of it where the run goes as a whole (isotonic regression).

    Example:

    >>> np.round(rising(np.array([1.0, 4.0, 2.0, 5.0])), 6).tolist()
    [1.0, 3.0, 3.0, 5.0]
    """
    runs = []
    for price in prices.tolist():
        total, count = price, 1
        while runs and runs[-1][0] * count >= total * runs[-1][1]:
            before, more = runs.pop()
            total, count = total + before, count + more
        runs.append((total, count))
    means = np.concatenate([np.empty(0), *(np.full(n, total / n) for total, n in runs)])
    step = 1e-12 * (means.max(initial=0.0) or 1.0)
    return means + step * np.arange(len(means))
