"""Mixed-integer linear programs, built up variable by variable for `scipy.optimize.milp`."""

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array


class IntegerProgram:
    """Minimises `sum costs * variables`, where some variables are integers.

    Attributes:
        count: How many variables there are.
        lower, upper: The bounds of the constraints.
    """

    def __init__(self):
        self.count, self.lower, self.upper = 0, [], []
        self._costs, self._bounds, self._integer, self._entries = [], [], [], []

    def add_variables(self, costs, upper, lower=0, *, integer=True):
        """Adds variables and returns their indices."""
        costs = np.asarray(costs, float)
        self._costs.append(costs)
        lower = np.broadcast_to(np.asarray(lower, float), costs.shape)
        self._bounds.append((lower, np.asarray(upper, float)))
        self._integer.append(np.full(len(costs), int(integer)))
        self.count += len(costs)
        return np.arange(self.count - len(costs), self.count)

    def add_constraint(self, indices, values, lower, upper):
        """Adds a constraint `lower <= sum values * variables <= upper`."""
        values = np.asarray(values, float)
        is_used = values != 0
        row = np.full(is_used.sum(), len(self.lower))
        self._entries.append((row, np.asarray(indices)[is_used], values[is_used]))
        self.lower.append(lower)
        self.upper.append(upper)

    def add_sums(self, parts, totals_of_parts, totals):
        """Adds `sum of parts = total` for each of `totals`, given the total of each part."""
        rows = len(self.lower) + np.searchsorted(totals, totals_of_parts)
        self._entries.append((rows, parts, np.ones(len(parts))))
        rows = len(self.lower) + np.arange(len(totals))
        self._entries.append((rows, totals, -np.ones(len(totals))))
        self.lower.extend([0] * len(totals))
        self.upper.extend([0] * len(totals))

    def minimize(self, time_limit, *, relaxed=False):
        """The result of `scipy.optimize.milp`; `relaxed` lets all variables be real numbers."""
        rows, columns, values = (np.concatenate(p) for p in zip(*self._entries, strict=True))
        matrix = csr_array((values, (rows, columns)), shape=(len(self.lower), self.count))
        return milp(
            np.concatenate(self._costs),
            integrality=None if relaxed else np.concatenate(self._integer),
            bounds=Bounds(*(np.concatenate(part) for part in zip(*self._bounds, strict=True))),
            constraints=LinearConstraint(matrix, self.lower, self.upper),
            options={"time_limit": time_limit, **({} if relaxed else {"mip_rel_gap": 0})},
        )

    def is_integral(self, values):
        """Whether values of the variables are integers where they have to be."""
        integers = values[np.concatenate(self._integer) == 1]
        return np.abs(integers - np.rint(integers)).max(initial=0) < 1e-6
