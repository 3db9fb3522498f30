"""Orders in which units are removed, and how far down an order a budget leads.

A budget cuts the order where it is met; then steps are restored that still fit.
"""

from bisect import bisect_left

import numpy as np

_ROUNDS = 64


class UnreachableError(ValueError):
    """A budget cannot be met.

    Args:
        message: The message of the error.
        lowest: The lowest cost, or the seconds, that can be reached.
    """

    def __init__(self, message, lowest):
        super().__init__(message)
        self.lowest = lowest


def removal_order(steps, scope):
    """The indices of steps in the order in which they are removed.

    Args:
        steps: `RemovalSteps`.
        scope: "uniform", by the fraction of its layer that is removed when a step goes; or
            "global", by the scores of its units.

    Returns:
        An array of integers; ties stay in the order of the steps.
    """
    if scope == "uniform":
        return np.argsort(steps.position, kind="stable")
    return np.arange(len(steps))


def steps_within_budget(steps, costs, allowed, scope):
    """The steps to remove so that no more remains than allowed, and none of them could be kept.

    Steps are removed in the order of the scope until the cost is low enough. Then they are
    restored, the last first, where that fits; once one does not fit, no other of its queue does.

    Args:
        steps: `RemovalSteps`.
        costs: `UnitCosts`.
        allowed: Integer.
        scope: "uniform", "global" or "greedy", see `removal_order` and `greedy_order`.

    Returns:
        A boolean array over steps.

    Raises:
        UnreachableError: If more remains even when all steps go.
    """
    check_reachable(steps, costs, allowed)
    if costs.of(steps.kept(np.zeros(len(steps), bool))) <= allowed:
        return np.zeros(len(steps), bool)
    if scope == "greedy":
        order = greedy_order(steps, costs, allowed)
    else:
        order = removal_order(steps, scope)

    def is_allowed(count):
        return costs.of(steps.kept(first_steps(order, count))) <= allowed

    count = bisect_left(range(len(order)), True, key=is_allowed)
    return restore_steps(steps, costs, allowed, order[:count])


def check_reachable(steps, costs, allowed):
    """Raises an `UnreachableError` if more remains than allowed even when all steps go."""
    lowest = lowest_cost(steps, costs)
    if lowest > allowed:
        raise UnreachableError("The budget cannot be met.", lowest)


def lowest_cost(steps, costs):
    """The cost when all steps are removed."""
    return costs.of(steps.kept(np.ones(len(steps), bool)))


def first_steps(order, count):
    """A boolean array over steps: the first `count` of an order of all steps."""
    removed = np.zeros(len(order), bool)
    removed[order[:count]] = True
    return removed


def restore_steps(steps, costs, allowed, order):
    """The steps that stay removed when others are restored, the last first, while the cost allows.

    Args:
        steps, costs, allowed: As in `steps_within_budget`.
        order: The indices of the steps that are removed, in order.

    Returns:
        A boolean array over steps.
    """
    removed = np.zeros(len(steps), bool)
    removed[order] = True
    full = set()
    for step in reversed(order.tolist()):
        queue = int(steps.queue[step])
        if queue in full:
            continue
        removed[step] = False
        if costs.of(steps.kept(removed)) > allowed:
            removed[step] = True
            full.add(queue)
    return removed


def greedy_order(steps, costs, allowed):
    """The indices of steps by importance per cost saved, the lowest first, down to the budget.

    The savings of each queue are evaluated again after every 1/64 of the way to the budget, or
    every step where steps are larger.

    Args:
        steps, costs, allowed: As in `steps_within_budget`.

    Returns:
        An array of all steps: those that meet the budget in their order, then the others.
    """
    removed, order = np.zeros(len(steps), bool), []
    importance = steps.importance - min(0.0, steps.importance.min(initial=0.0))
    cost = costs.of(steps.kept(removed))
    portion = (cost - allowed) / _ROUNDS
    while cost > allowed and not removed.all():
        saved = savings_by_step(steps, costs, removed, cost)
        left = np.flatnonzero(~removed)
        with np.errstate(divide="ignore", invalid="ignore"):
            price = np.where(saved[left] > 0, importance[left] / saved[left], np.inf)
        left = left[np.argsort(price, kind="stable")]
        enough = np.searchsorted(np.cumsum(saved[left]), min(portion, cost - allowed)) + 1
        order.append(left[:enough])
        removed[order[-1]] = True
        cost = costs.of(steps.kept(removed))
    return np.concatenate([*order, np.flatnonzero(~removed)]).astype(int)


def savings_by_step(steps, costs, removed, cost):
    """The cost that each step saves, estimated from the first step left in its queue."""
    saved = np.zeros(len(steps))
    left = np.flatnonzero(~removed)
    queues, first = np.unique(steps.queue[left], return_index=True)
    for queue, step in zip(queues, left[first], strict=True):
        removed[step] = True
        per_unit = (cost - costs.of(steps.kept(removed))) / steps.size[step]
        removed[step] = False
        same = left[steps.queue[left] == queue]
        saved[same] = per_unit * steps.size[same]
    return saved
