"""The best choice under a budget, for small models: a mixed-integer linear program.

Units of one kind cost the same and go in the order of their scores. So steps of a queue go in
order, and for each queue q only the number of steps that go is chosen:

    minimise  sum_q sum_j i_qj y_qj     with y_qj in {0, 1},  sum_j y_qj = 1

where `i_qj` is the importance of the first j steps of q. A term of the cost that depends on several
queues, as the product of the units of two layers, is a table over their numbers:

    sum_T sum_{j in T} c_Tj z_Tj <= budget,   sum_{j: j_q = n} z_Tj = y_qn for each q in T

which is exact, not an approximation: as all `y` are 0 or 1, one `z` of each table is 1.
"""

import itertools

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import coo_array

from tfprune.units.selection.axis_lengths import Rows
from tfprune.units.selection.ranking import UnreachableError, filled

LARGEST = 10_000
"""How many entries the tables may have together."""

_SECONDS = 60
_INFEASIBLE = 2


def meet_exactly(steps, costs, allowed, coupling, least):
    """Which steps go so that what remains has the greatest importance that the budget allows.

    Args:
        steps: `Steps`, made with `protect=False`.
        costs: `UnitCosts`.
        allowed: Integer.
        coupling: The units of the model.
        least: Integer, the least cost that the constraints allow, for the error.

    Returns:
        A boolean array over steps.

    Raises:
        UnreachableError: If the budget cannot be met.
        ValueError: If the model is too large.
    """
    program = _Program(steps, costs, coupling)
    program.limit_cost(allowed)
    program.limit_sets()
    program.limit_axes()
    gone = program.solve(least)
    order = np.flatnonzero(gone)
    return filled(steps, costs, allowed, order[np.argsort(steps.importance[order], kind="stable")])


def check_size(steps, costs, coupling):
    """Raises a `ValueError` if a model is too large; see `meet_exactly` for the arguments."""
    _Program(steps, costs, coupling)


class _Program:
    def __init__(self, steps, costs, coupling):
        self.steps, self.costs = steps, costs
        self.axes = Rows(coupling).matrix
        self.lengths = self.axes @ steps.bundles.kept.astype(int)
        self.queues = [np.flatnonzero(steps.queue == queue) for queue in np.unique(steps.queue)]
        sizes = [len(queue) + 1 for queue in self.queues]
        self.starts = np.concatenate([[0], np.cumsum(sizes)])  # of each queue's y
        self.tables = self._tables(sizes)
        self.count = int(self.starts[-1])
        self.constraints = []
        for start, size in zip(self.starts, sizes, strict=False):
            self._add([np.arange(start, start + size)], [np.ones(size)], 1, 1)

    def _tables(self, sizes):
        """Pairs of queues, and the terms of the cost that depend on no others."""
        number = np.full(len(self.steps) + 1, -1)
        for place, queue in enumerate(self.queues):
            number[queue] = place
        queue_of = number[self.steps.of_bundle[self.steps.bundles.of_unit]]
        found = {}
        for term, units in enumerate(self.costs.depends()):
            touched = frozenset(queue_of[units][queue_of[units] >= 0].tolist())
            found.setdefault(touched, []).append(term)
        for small in sorted(found, key=len):
            larger = [other for other in found if small < other]
            if larger:
                found[larger[0]] += found.pop(small)
        entries = sum(int(np.prod([float(sizes[q]) for q in touched])) for touched in found)
        if entries > LARGEST:
            raise ValueError(
                "The model is too large for the best choice to be worked out. "
                f"Received: scope='exact', with tables of {entries:,} entries, of at most "
                f"{LARGEST:,}. Take scope='greedy', or choose among fewer units with `only`, "
                "`exclude` or a larger `round_to`."
            )
        return [(sorted(touched), terms) for touched, terms in found.items()]

    def _add(self, places, values, low, high):
        self.constraints.append((np.concatenate(places), np.concatenate(values), low, high))

    def limit_cost(self, allowed):
        """No more remains than allowed."""
        places, values, fixed = [], [], self.costs.fixed
        for queues, terms in self.tables:
            ranges = [range(len(self.queues[q]) + 1) for q in queues]
            states = list(itertools.product(*ranges))
            values.append(np.array([self._cost(queues, state, terms) for state in states], float))
            if not queues:
                fixed += values.pop()[0]
            elif len(queues) == 1:
                places.append(self.starts[queues[0]] + np.arange(len(states)))
            else:
                entries = self.count + np.arange(len(states))
                self.count += len(states)
                places.append(entries)
                self._tie(queues, np.array(states), entries)
        # Costs are integers: with a half, rounding errors do not matter.
        self._add(
            places or [np.empty(0, int)], values or [np.empty(0)], -np.inf, allowed - fixed + 0.5
        )

    def _tie(self, queues, states, entries):
        for column, queue in enumerate(queues):
            for number in range(len(self.queues[queue]) + 1):
                here = entries[states[:, column] == number]
                chosen = [self.starts[queue] + number]
                self._add([here, chosen], [np.ones(len(here)), [-1.0]], 0, 0)

    def _cost(self, queues, state, terms):
        """The terms when so many steps of the queues go; 0 where that is ruled out."""
        gone = np.zeros(len(self.steps), bool)
        for queue, number in zip(queues, state, strict=True):
            gone[self.queues[queue][:number]] = True
        kept = self.steps.kept(gone)
        if (self.axes @ kept.astype(int) == 0)[self.lengths > 0].any():
            return 0
        return self.costs.terms(kept)[terms].sum()

    def limit_sets(self):
        """Each set keeps what it has to."""
        bundles, least = self.steps.bundles, self.steps.least
        kept = bundles.members @ (~bundles.gone).astype(int)
        lost = self._lost_by_step(bundles.members)
        for row, (now, fewest) in enumerate(zip(kept, least, strict=True)):
            self._limit(lost[row], now - fewest)

    def _lost_by_step(self, matrix):
        """Of a matrix (rows, bundles): how much of each row goes with a step."""
        inside = np.flatnonzero(self.steps.of_bundle >= 0)
        shape = (len(self.steps.of_bundle), len(self.steps))
        places = (inside, self.steps.of_bundle[inside])
        return (matrix @ coo_array((np.ones(len(inside), int), places), shape=shape)).toarray()

    def limit_axes(self):
        """Each axis of a tensor or weight keeps a unit."""
        lost = (self.axes @ self.steps.units().T).toarray()
        for row in np.flatnonzero(self.lengths > 0):
            self._limit(lost[row], self.lengths[row] - 1)

    def _limit(self, lost, most):
        """What all steps that go lose together, `lost` by step, is at most `most`."""
        if lost.sum() <= most:
            return
        values = [np.concatenate([[0], np.cumsum(lost[queue])]) for queue in self.queues]
        self._add([np.arange(self.starts[-1])], [np.concatenate(values)], -np.inf, max(0, most))

    def solve(self, least):
        """Which steps go, a boolean array."""
        # From 0 up, so that scores below 0 do not pay for what goes.
        importance = self.steps.importance - min(0.0, self.steps.importance.min(initial=0.0))
        scale = importance.max(initial=0.0) or 1.0
        objective = np.zeros(self.count)
        for start, queue in zip(self.starts, self.queues, strict=False):
            objective[start : start + len(queue) + 1] = [0, *np.cumsum(importance[queue]) / scale]
        rows = np.repeat(np.arange(len(self.constraints)), [len(c[0]) for c in self.constraints])
        columns = np.concatenate([c[0] for c in self.constraints])
        values = np.concatenate([c[1] for c in self.constraints])
        shape = (len(self.constraints), self.count)
        integer = np.zeros(self.count)
        integer[: self.starts[-1]] = 1
        solution = milp(
            objective,
            integrality=integer,
            bounds=Bounds(0, 1),
            constraints=LinearConstraint(
                coo_array((values, (rows, columns)), shape=shape).tocsr(),
                [c[2] for c in self.constraints],
                [c[3] for c in self.constraints],
            ),
            options={"time_limit": _SECONDS, "mip_rel_gap": 0.0},
        )
        if solution.status == _INFEASIBLE:
            raise UnreachableError("The budget cannot be met.", least)
        if solution.status != 0:
            raise ValueError(
                f"The best choice was not found within {_SECONDS} seconds ({solution.message}). "
                "Received: scope='exact'. Take scope='greedy', or choose among fewer units with "
                "`only`, `exclude` or a larger `round_to`."
            )
        gone = np.zeros(len(self.steps), bool)
        for start, queue in zip(self.starts, self.queues, strict=False):
            gone[queue[: int(solution.x[start : start + len(queue) + 1].argmax())]] = True
        return gone
