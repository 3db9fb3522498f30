"""A budget of latency: candidates are rebuilt and timed, as few of them as bisection needs."""

import numpy as np

from tfprune.coupling.kept_units import keeping
from tfprune.measuring.latency import latency
from tfprune.rebuild.engine import rebuild
from tfprune.units.selection.ranking import UnreachableError, ranking

_MEASUREMENTS = 8
_RETRIES = 3


class Clock:
    """Times models without some of their units.

    Args:
        units: `PrunableUnits`.
        budget: `Latency`.
    """

    def __init__(self, units, budget):
        self._units, self._budget = units, budget
        self._dense = None

    def __call__(self, kept):
        """The seconds that a call takes with all units, and with those kept, timed in turns."""
        if self._dense is None:
            self._dense = self._model(np.ones_like(kept))
        models = [self._dense, self._model(kept)]
        return tuple(latency(models, self._budget.batch_size, self._budget.input_shapes))

    def _model(self, kept):
        return rebuild(self._units.model, keeping(self._units.coupling, kept))


def meet_in_time(steps, clock, budget, scope, progress=1.0, order=None):
    """Which steps go so that a call takes no longer than allowed.

    The number of steps that go, in the order of the ranking, is found by bisection in at most eight
    measurements. Each is taken in turns with the dense model, and judged by the ratio of both, so
    what else runs on the machine does not count. In the end the choice is measured once more; where
    it is above the budget by more than the tolerance, a sixteenth of the steps goes on top, three
    times at most.

    Args:
        steps: `Steps`.
        clock: Function from a boolean array over units to the seconds that a call takes with all
            units and with these.
        budget: `Latency`.
        scope: "uniform" or "global".
        progress: Float from 0 to 1, how far on the way to the budget.
        order: The steps in the order in which they go, by default as the scope says.

    Returns:
        A boolean array over steps.

    Raises:
        UnreachableError: If a call takes longer even when all steps go, or measurements of the
            same model contradict each other.
    """
    order = ranking(steps, scope) if order is None else order
    dense, seconds = clock(steps.kept(np.zeros(len(steps), bool)))

    def gone(count):
        found = np.zeros(len(steps), bool)
        found[order[:count]] = True
        return found

    def excess(count):
        now, seconds = clock(steps.kept(gone(count)))
        return (seconds / now * dense) / budget.allowed(dense, progress) - 1

    if seconds <= budget.allowed(dense, progress) * (1 + budget.tolerance):
        return gone(0)
    low, high = 0, len(order)
    if excess(high) > budget.tolerance:
        least = clock(steps.kept(gone(high)))[1]
        raise UnreachableError("The budget cannot be met.", least)
    for _ in range(_MEASUREMENTS):
        if high - low <= 1:
            break
        middle = (low + high) // 2
        low, high = (low, middle) if excess(middle) <= 0 else (middle, high)
    for _ in range(1 + _RETRIES):
        if excess(high) <= budget.tolerance:
            return gone(high)
        high = min(len(order), high + max(1, len(order) // 16))
    raise UnreachableError(
        "Measurements of the same model differ by more than the tolerance.",
        clock(steps.kept(gone(high)))[1],
    )
