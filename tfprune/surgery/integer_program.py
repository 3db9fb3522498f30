"""Variables and constraints, put together for `scipy.optimize.milp`."""

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array


class Programme:
    """A linear programme, some of whose variables are integers; what costs least is sought."""

    def __init__(self):
        self.costs, self.bounds, self.integer = [], [], []
        self.count = 0
        self.triples, self.lower, self.upper = [], [], []

    def variables(self, costs, upper, *, lower=0, integer=True):
        """Adds variables and gives their places."""
        costs = np.asarray(costs, float)
        self.costs.append(costs)
        self.bounds.append((np.full(len(costs), float(lower)), np.asarray(upper, float)))
        self.integer.append(np.full(len(costs), int(integer)))
        self.count += len(costs)
        return np.arange(self.count - len(costs), self.count)

    def row(self, places, values, lower, upper):
        """Adds a constraint `lower <= sum values * variables <= upper`."""
        values = np.asarray(values, float)
        is_used = values != 0
        line = np.full(is_used.sum(), len(self.lower))
        self.triples.append((line, np.asarray(places)[is_used], values[is_used]))
        self.lower.append(lower)
        self.upper.append(upper)

    def one_each(self, parts, sums, every):
        """Adds `sum of parts = sums` for each of `every`, given the sum of each part."""
        line = len(self.lower) + np.searchsorted(every, sums)
        self.triples.append((line, parts, np.ones(len(parts))))
        self.triples.append((len(self.lower) + np.arange(len(every)), every, -np.ones(len(every))))
        self.lower.extend([0] * len(every))
        self.upper.extend([0] * len(every))

    def solved(self, time_limit):
        """The values of the variables, or None if there are none."""
        if not self.count:
            return np.empty(0) if self._holds_without_variables() else None
        lines, places, values = (np.concatenate(part) for part in zip(*self.triples, strict=True))
        matrix = csr_array((values, (lines, places)), shape=(len(self.lower), self.count))
        integer = np.concatenate(self.integer)
        given = {
            "c": np.concatenate(self.costs),
            "bounds": Bounds(*(np.concatenate(part) for part in zip(*self.bounds, strict=True))),
            "constraints": LinearConstraint(matrix, self.lower, self.upper),
        }
        # Mostly the integers come out as such, and a linear programme is solved in no time.
        result = milp(**given, options={"time_limit": time_limit})
        if result.x is not None and result.status == 0:
            whole = result.x[integer == 1]
            if np.abs(whole - np.rint(whole)).max(initial=0) < 1e-6:
                return result.x
        options = {"time_limit": time_limit, "mip_rel_gap": 0}
        result = milp(**given, integrality=integer, options=options)
        if result.status == 1 and result.x is None:
            raise RuntimeError(too_long(time_limit))
        return result.x

    def _holds_without_variables(self):
        pairs = zip(self.lower, self.upper, strict=True)
        return all(lower <= 0 <= upper for lower, upper in pairs)


def too_long(time_limit):
    """The message that the time was up."""
    return (
        "The sizes were not solved in time, and nothing was changed. "
        f"Received: time_limit={time_limit:g}. Allow more, or ask for fewer sizes at once."
    )
