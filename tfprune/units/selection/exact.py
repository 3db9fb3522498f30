"""The selection of the highest importance under a budget, for small models: an integer program.

Units of one equivalence class cost the same and go in the order of their scores. So steps of a
queue go in order, and for each queue q only the number of steps that go is decided:

    minimise  sum_q sum_j i_qj y_qj     with y_qj in {0, 1},  sum_j y_qj = 1

where `i_qj` is the importance of the first j steps of q. A term of the cost that depends on several
queues, as the product of the units of two layers, is a table over their numbers:

    sum_T sum_{j in T} c_Tj z_Tj <= budget,   sum_{j: j_q = n} z_Tj = y_qn for each q in T

which is exact, not an approximation: as all `y` are 0 or 1, one `z` of each table is 1.
"""

import itertools

import numpy as np
from scipy.sparse import coo_array

from tfprune._tools.integer_program import IntegerProgram
from tfprune.units.selection.axis_lengths import AxisLengths
from tfprune.units.selection.ranking import UnreachableError, restore_steps

LARGEST = 10_000
"""How many entries the tables may have together."""

_SECONDS = 60
_INFEASIBLE = 2  # a status of `scipy.optimize.milp`


def optimal_steps(steps, costs, allowed, coupling, lowest):
    """The steps to remove so that the rest has the highest importance that the budget allows.

    Args:
        steps: `RemovalSteps`, made with `protect=False`.
        costs: `UnitCosts`.
        allowed: Integer.
        coupling: The units of the model.
        lowest: Integer, the lowest cost that the constraints allow, for the error.

    Returns:
        A boolean array over steps.

    Raises:
        UnreachableError: If the budget cannot be met.
        ValueError: If the model is too large.
    """
    program = _ExactProgram(steps, costs, coupling)
    program.limit_cost(allowed)
    program.limit_sets()
    program.limit_axes()
    removed = np.flatnonzero(program.solve(lowest))
    order = removed[np.argsort(steps.importance[removed], kind="stable")]
    return restore_steps(steps, costs, allowed, order)


def check_size(steps, costs, coupling):
    """Raises a `ValueError` if a model is too large; see `optimal_steps` for the arguments."""
    _ExactProgram(steps, costs, coupling)


class _ExactProgram:
    def __init__(self, steps, costs, coupling):
        self.steps, self.costs = steps, costs
        self.axes = AxisLengths(coupling).matrix
        self.lengths = self.axes @ steps.groups.kept.astype(int)
        self.queues = [np.flatnonzero(steps.queue == queue) for queue in np.unique(steps.queue)]
        self.tables = self._tables([len(queue) + 1 for queue in self.queues])
        self.program = IntegerProgram()
        # From 0 up, so that scores below 0 do not pay for what goes.
        importance = steps.importance - min(0.0, steps.importance.min(initial=0.0))
        scale = importance.max(initial=0.0) or 1.0
        self.numbers = []  # for each queue the y of each number of its steps
        for queue in self.queues:
            lost = np.append(0, np.cumsum(importance[queue]) / scale)
            self.numbers.append(self.program.add_variables(lost, np.ones(len(lost))))
        for numbers in self.numbers:
            self.program.add_constraint(numbers, np.ones(len(numbers)), 1, 1)

    def _tables(self, sizes):
        """Pairs of queues, and the terms of the cost that depend on no others."""
        number = np.full(len(self.steps) + 1, -1)
        for index, queue in enumerate(self.queues):
            number[queue] = index
        queue_of = number[self.steps.step_of_group[self.steps.groups.group_of_unit]]
        terms_of = {}
        for term, units in enumerate(self.costs.depends()):
            touched = frozenset(queue_of[units][queue_of[units] >= 0].tolist())
            terms_of.setdefault(touched, []).append(term)
        for small in sorted(terms_of, key=len):
            larger = [other for other in terms_of if small < other]
            if larger:
                terms_of[larger[0]] += terms_of.pop(small)
        entries = sum(int(np.prod([float(sizes[q]) for q in touched])) for touched in terms_of)
        if entries > LARGEST:
            raise ValueError(
                "The model is too large for the best choice to be worked out. "
                f"Received: selection='exact', with tables of {entries:,} entries, of at most "
                f"{LARGEST:,}. Take selection='greedy', or choose among fewer units with `only`, "
                "`exclude` or a larger `round_to`."
            )
        return [(sorted(touched), terms) for touched, terms in terms_of.items()]

    def limit_cost(self, allowed):
        """No more remains than allowed."""
        indices, values, fixed = [np.empty(0, int)], [np.empty(0)], self.costs.fixed
        for queues, terms in self.tables:
            ranges = [range(len(self.queues[q]) + 1) for q in queues]
            states = list(itertools.product(*ranges))
            table = np.array([self._cost(queues, state, terms) for state in states], float)
            if not queues:
                fixed += table[0]
                continue
            if len(queues) == 1:
                entries = self.numbers[queues[0]]
            else:
                entries = self._table_entries(queues, np.array(states))
            indices.append(entries)
            values.append(table)
        # Costs are integers: with a half, rounding errors do not matter.
        indices, values = np.concatenate(indices), np.concatenate(values)
        self.program.add_constraint(indices, values, -np.inf, allowed - fixed + 0.5)

    def _table_entries(self, queues, states):
        """The variables z of a table, tied to the y of its queues."""
        ones = np.ones(len(states))
        entries = self.program.add_variables(0 * ones, ones, integer=False)
        for column, queue in enumerate(queues):
            for number, y in enumerate(self.numbers[queue]):
                z = entries[states[:, column] == number]
                self.program.add_constraint([*z, y], [*np.ones(len(z)), -1.0], 0, 0)
        return entries

    def _cost(self, queues, state, terms):
        """The terms when so many steps of the queues go; 0 where that is ruled out."""
        removed = np.zeros(len(self.steps), bool)
        for queue, number in zip(queues, state, strict=True):
            removed[self.queues[queue][:number]] = True
        kept = self.steps.kept(removed)
        if (self.axes @ kept.astype(int) == 0)[self.lengths > 0].any():
            return 0
        return self.costs.terms(kept)[terms].sum()

    def limit_sets(self):
        """Each set keeps as many units as it must."""
        groups = self.steps.groups
        kept = groups.members @ (~groups.removed).astype(int)
        most = kept - self.steps.min_kept
        for lost, limit in zip(self._lost_by_step(groups.members), most, strict=True):
            self._limit(lost, limit)

    def _lost_by_step(self, matrix):
        """Of a matrix (rows, groups): how much of each row goes with a step."""
        inside = np.flatnonzero(self.steps.step_of_group >= 0)
        shape = (len(self.steps.step_of_group), len(self.steps))
        entries = (np.ones(len(inside), int), (inside, self.steps.step_of_group[inside]))
        return (matrix @ coo_array(entries, shape=shape)).toarray()

    def limit_axes(self):
        """Each axis of a tensor or weight keeps a unit."""
        lost = (self.axes @ self.steps.units().T).toarray()
        for row in np.flatnonzero(self.lengths > 0):
            self._limit(lost[row], self.lengths[row] - 1)

    def _limit(self, lost, most):
        """What all steps that go lose together, `lost` by step, is at most `most`."""
        if lost.sum() <= most:
            return
        values = [np.append(0, np.cumsum(lost[queue])) for queue in self.queues]
        indices, values = np.concatenate(self.numbers), np.concatenate(values)
        self.program.add_constraint(indices, values, -np.inf, max(0, most))

    def solve(self, lowest):
        """Which steps go, a boolean array."""
        solution = self.program.minimize(_SECONDS)
        if solution.status == _INFEASIBLE:
            raise UnreachableError("The budget cannot be met.", lowest)
        if solution.status != 0:
            raise ValueError(
                f"The best choice was not found within {_SECONDS} seconds ({solution.message}). "
                "Received: selection='exact'. Take selection='greedy', or choose among fewer units "
                "with `only`, `exclude` or a larger `round_to`."
            )
        removed = np.zeros(len(self.steps), bool)
        for numbers, queue in zip(self.numbers, self.queues, strict=True):
            removed[queue[: int(solution.x[numbers].argmax())]] = True
        return removed
