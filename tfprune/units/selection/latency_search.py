"""Search for the units to remove under a budget of latency: candidates are rebuilt and timed."""

import numpy as np

from tfprune.coupling.kept_units import keeping
from tfprune.measuring.latency import medians
from tfprune.measuring.runtimes import clock, inference
from tfprune.rebuild.engine import rebuild
from tfprune.units.selection.ranking import UnreachableError, first_steps, removal_order

_MEASUREMENTS = 8
_RETRIES = 3


class LatencyTimer:
    """Times models without some of their units, in the runtime of the budget.

    Args:
        units: `PrunableUnits`.
        budget: `Latency`.
    """

    def __init__(self, units, budget):
        self._units, self._budget = units, budget
        self._dense, self._clock = None, clock(budget.runtime, budget.threads)

    def __call__(self, kept):
        """The seconds of a call with all units, and with those kept, timed in turns."""
        if self._dense is None:
            self._dense = self._inference(np.ones_like(kept))
        if kept.all():
            (seconds,) = medians([self._dense], self._clock)
            return seconds, seconds
        return tuple(medians([self._dense, self._inference(kept)], self._clock))

    def _inference(self, kept):
        model = rebuild(self._units.model, keeping(self._units.coupling, kept))
        return inference(model, **self._budget.conditions)


def steps_within_latency(steps, timer, budget, scope, progress=1.0, order=None):
    """The steps to remove so that a call takes no longer than allowed.

    The number of steps to remove, in a given order, is found by bisection in at most eight
    measurements. Each is taken in turns with the dense model, and judged by the ratio of both, so
    what else runs on the machine does not count. In the end the result is measured once more; where
    it is above the budget by more than the tolerance, another sixteenth of the steps is removed,
    three times at most.

    Args:
        steps: `RemovalSteps`.
        timer: Function from a boolean array over units to the seconds of a call with all units
            and with these: a `LatencyTimer`.
        budget: `Latency`.
        scope: "uniform" or "global".
        progress: Float from 0 to 1, how far on the way to the budget.
        order: The indices of the steps in the order of removal, by default that of the scope.

    Returns:
        A boolean array over steps.

    Raises:
        UnreachableError: If a call takes longer even when all steps go, or measurements of the
            same model contradict each other.
    """
    order = removal_order(steps, scope) if order is None else order
    dense, seconds = timer(steps.kept(np.zeros(len(steps), bool)))

    allowed = budget.allowed(dense, progress)

    def kept(count):
        return steps.kept(first_steps(order, count))

    def excess(count):
        now, seconds = timer(kept(count))
        return (seconds / now * dense) / allowed - 1

    if seconds <= allowed * (1 + budget.tolerance):
        return first_steps(order, 0)
    low, high = 0, len(order)
    if excess(high) > budget.tolerance:
        lowest = timer(kept(high))[1]
        raise UnreachableError("The budget cannot be met.", lowest)
    for _ in range(_MEASUREMENTS):
        if high - low <= 1:
            break
        middle = (low + high) // 2
        low, high = (low, middle) if excess(middle) <= 0 else (middle, high)
    for _ in range(1 + _RETRIES):
        if excess(high) <= budget.tolerance:
            return first_steps(order, high)
        high = min(len(order), high + max(1, len(order) // 16))
    raise UnreachableError(
        "Measurements of the same model differ by more than the tolerance.",
        timer(kept(high))[1],
    )
