"""A budget met from below by going down a ranking, and filled up as far as the units allow."""

import numpy as np

_ROUNDS = 64


class UnreachableError(ValueError):
    """A budget cannot be met.

    Args:
        least: The least that can remain.
        message: What is said of it.
    """

    def __init__(self, message, least):
        super().__init__(message)
        self.least = least


def ranking(steps, scope):
    """The order in which steps go.

    Args:
        steps: `Steps`.
        scope: "uniform", by which part of its layer is gone when a step goes; or "global", by what
            the units are worth.

    Returns:
        An array of steps; equal ones in their order.
    """
    if scope == "uniform":
        return np.argsort(steps.position, kind="stable")
    return np.arange(len(steps))


def meet(steps, costs, allowed, scope):
    """Which steps go so that no more remains than allowed, and none of them could be kept.

    Steps go in the order of the ranking until the cost is low enough. Then they come back, the
    last first, where that fits; once one does not fit, no other of its queue does.

    Args:
        steps: `Steps`.
        costs: `UnitCosts`.
        allowed: Integer.
        scope: "uniform", "global" or "greedy".

    Returns:
        A boolean array over steps.

    Raises:
        UnreachableError: If more remains even when all steps go.
    """
    check_reachable(steps, costs, allowed)
    if costs.of(steps.kept(np.zeros(len(steps), bool))) <= allowed:
        return np.zeros(len(steps), bool)
    order = cheapest(steps, costs, allowed) if scope == "greedy" else ranking(steps, scope)
    count = first_true(lambda n: costs.of(steps.kept(_first(order, n))) <= allowed, len(order))
    return filled(steps, costs, allowed, order[:count])


def check_reachable(steps, costs, allowed):
    """Raises an `UnreachableError` if more remains than allowed even when all steps go."""
    least = costs.of(steps.kept(np.ones(len(steps), bool)))
    if least > allowed:
        raise UnreachableError("The budget cannot be met.", least)


def _first(order, count):
    gone = np.zeros(len(order), bool)
    gone[order[:count]] = True
    return gone


def first_true(holds, most):
    """The least number up to `most` for which a condition holds, by bisection.

    Args:
        holds: Function from an integer to a bool, which is not False after it was True.
        most: Integer at which it holds.

    Example:

    >>> first_true(lambda n: n * n >= 50, 100)
    8
    """
    low, high = 0, most
    while low < high:
        middle = (low + high) // 2
        if holds(middle):
            high = middle
        else:
            low = middle + 1
    return high


def filled(steps, costs, allowed, order):
    """Takes steps back, the last first, as long as the cost stays allowed.

    Args:
        steps, costs, allowed: As in `meet`.
        order: The steps that go, in order.

    Returns:
        A boolean array over steps.
    """
    gone = np.zeros(len(steps), bool)
    gone[order] = True
    full = set()
    for step in reversed(order.tolist()):
        queue = int(steps.queue[step])
        if queue in full:
            continue
        gone[step] = False
        if costs.of(steps.kept(gone)) > allowed:
            gone[step] = True
            full.add(queue)
    return gone


def cheapest(steps, costs, allowed):
    """The steps by their importance for each bit of the cost that they save, until it is allowed.

    What each queue saves is worked out anew after every 1/64 of the way to the budget, or every
    step where steps are larger.

    Args:
        steps, costs, allowed: As in `meet`.

    Returns:
        An array of all steps, those which go first in their order and the others after them.
    """
    gone, order = np.zeros(len(steps), bool), []
    importance = steps.importance - min(0.0, steps.importance.min(initial=0.0))
    cost = costs.of(steps.kept(gone))
    portion = (cost - allowed) / _ROUNDS
    while cost > allowed and not gone.all():
        saved = savings_of(steps, costs, gone, cost)
        left = np.flatnonzero(~gone)
        with np.errstate(divide="ignore", invalid="ignore"):
            price = np.where(saved[left] > 0, importance[left] / saved[left], np.inf)
        left = left[np.argsort(price, kind="stable")]
        enough = np.searchsorted(np.cumsum(saved[left]), min(portion, cost - allowed)) + 1
        order.append(left[:enough])
        gone[order[-1]] = True
        cost = costs.of(steps.kept(gone))
    return np.concatenate([*order, np.flatnonzero(~gone)]).astype(int)


def savings_of(steps, costs, gone, cost):
    """What each step saves, by the first of its queue that is not gone, for each of its units."""
    saved = np.zeros(len(steps))
    left = np.flatnonzero(~gone)
    queues, first = np.unique(steps.queue[left], return_index=True)
    for queue, step in zip(queues, left[first], strict=True):
        gone[step] = True
        per_unit = (cost - costs.of(steps.kept(gone))) / steps.size[step]
        gone[step] = False
        same = left[steps.queue[left] == queue]
        saved[same] = per_unit * steps.size[same]
    return saved
