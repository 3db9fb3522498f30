"""Parallel maps over arrays in threads; NumPy releases the GIL while it computes."""

import concurrent.futures
import os

_ENOUGH = 2**22
"""From how many elements threads are worth their start."""


def each(function, arrays, *more):
    """Calls a function for each array, in threads where there is enough to do.

    Args:
        function: Callable which does not depend on the order of the calls.
        arrays: List of arrays.
        *more: Lists of further arguments, one for each array.

    Returns:
        A list of what the function returns, in the order of the arrays.

    Example:

    >>> import numpy as np
    >>> each(np.size, [np.ones(3), np.ones(5)])
    [3, 5]
    """
    calls = list(zip(arrays, *more, strict=True))
    if len(calls) < 2 or sum(array.size for array in arrays) < _ENOUGH:
        return [function(*arguments) for arguments in calls]
    threads = min(len(calls), os.cpu_count() or 1, 8)
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        return list(pool.map(lambda arguments: function(*arguments), calls))
