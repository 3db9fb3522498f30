"""Solves for the sizes of layers: which units stay and how many are added, as an integer program.

Units that occur in the same slices and tensors are equivalent: they are exchangeable but for their
utility, so an equivalence class has two integers, how many of it stay and how many are new. With
x_u from 0 to 1 for each unit,

    maximise    sum_u utility_u x_u - sum_k cost_k new_k
    subject to  sum_{u of class k} x_u = kept_k,
                sum_k signs_k (kept_k + new_k) = size          for each size constraint,
                equal counts in the groups that stay           for grouped layers,
                kept + new >= 1                                for each axis of a tensor or weight.

Given how many of a class stay, those of the highest utility do, so no x needs to be an integer. The
linear relaxation mostly gives integers already and takes milliseconds.
"""

from dataclasses import dataclass

import keras
import numpy as np

from tfprune import _keras
from tfprune._tools.integer_program import IntegerProgram
from tfprune.coupling.labels import FIXED
from tfprune.units.incidence import incidence, row_hashes, tied_by_columns

_LARGE = 5000  # units from which on a message tells what is being solved
_TIME_IS_UP = 1  # a status of `scipy.optimize.milp`


@dataclass(frozen=True, eq=False)
class Solution:
    """The units that stay, and how many are added.

    Attributes:
        kept: For each unit, whether it stays.
        new: Pairs of the units of an equivalence class, in order, and how many are added to it.
        utilities: For each unit its utility; 0 where it was not evaluated.
    """

    kept: np.ndarray
    new: tuple
    utilities: np.ndarray

    def size(self, constraint):
        """How many positions a `SizeConstraint` counts in the solution."""
        counts = self.kept.astype(int)
        for units, count in self.new:
            counts[units[-1]] += count
        # A new unit stands wherever any of its class does, so the last of a class speaks for it.
        return int((constraint.signs * counts[constraint.units]).sum())


def solve(coupling, constraints, utilities, *, relaxed=False, cheap=(), time_limit=60.0, verbose=0):
    """The units to keep and to add so that sizes are met, with the highest sum of utilities.

    Args:
        coupling: The units.
        constraints: The `SizeConstraint`s, at least one.
        utilities: Function of a boolean array over units that returns the utility of each unit;
            only those of the units that are True are used. Values that are not finite count as
            worst.
        relaxed: Whether sizes that cannot be met are met as nearly as they can be.
        cheap: Units of low utility, because the layers that make them are removed.
        time_limit: Seconds.
        verbose: 0 is quiet, 1 says what is solved.

    Returns:
        A `Solution`.

    Raises:
        ValueError: If sizes cannot be met, with the nearest that can.
        RuntimeError: If the time is up.
    """
    problem = _SizeProblem(coupling, constraints, time_limit, verbose)
    utility = problem.scaled(utilities(problem.removable), cheap)
    cost = np.where(np.isin(problem.first, np.asarray(cheap, int)), 0.015, 1.5)
    counts = problem.solve(-utility, cost, [constraint.size for constraint in constraints])
    if counts is None:
        sizes = problem.nearest(utility, cost)
        if sizes is None:
            raise ValueError(_impossible(coupling, constraints))
        if not relaxed:
            raise ValueError(_unmet(coupling, constraints, sizes))
        counts = problem.solve(-utility, cost, sizes)
    if counts is None:
        raise RuntimeError(_timeout_message(time_limit))
    return problem.solution(*counts, utility)


def remove_negative(coupling, utilities, *, time_limit=60.0, verbose=0):
    """The units to keep when all of negative utility are removed that can be spared.

    Args:
        coupling, utilities, time_limit, verbose: As in `solve`.

    Returns:
        A `Solution`.
    """
    problem = _SizeProblem(coupling, None, time_limit, verbose)
    values = np.asarray(utilities(problem.removable), float)
    finite = np.isfinite(values)
    scale = np.abs(values[finite & problem.removable]).max(initial=0) or 1.0
    values = np.where(finite, values / scale, -1.0)
    # Units of utility 0 stay; no utility is so small that a solver overlooks it.
    values = np.where(values < 0, np.minimum(values, -1e-4), np.maximum(values, 1e-4))
    counts = problem.solve(-values, np.ones(len(problem.first)), [])
    if counts is None:
        raise RuntimeError(_timeout_message(time_limit))
    return problem.solution(*counts, values)


class _SizeProblem:
    """The equivalence classes of units that may change, and the constraints among them.

    Attributes:
        removable: For each unit, whether it may go.
        first: The first unit of each class.
    """

    def __init__(self, coupling, constraints, time_limit, verbose):
        self.coupling, self.constraints = coupling, constraints or []
        self.time_limit, self.verbose = time_limit, verbose
        arrays = [
            group
            for grouping in coupling.groupings
            for side in grouping.sides
            for group in coupling.roots[side]
        ]
        for each in self.constraints:
            arrays += [each.units[each.signs == 1], each.units[each.signs == -1]]
        occurrences = incidence(coupling, arrays)
        # Columns from here on may be left without units.
        self.axes = len(coupling.slices) + len(coupling.tensor_labels)
        pinned = np.zeros(coupling.size, bool)
        pinned[[FIXED, *coupling.pins]] = True
        hashes = np.stack([row_hashes(occurrences), pinned.astype(np.uint64)], axis=1)
        _, self.first, classes = np.unique(hashes, axis=0, return_index=True, return_inverse=True)
        self.class_of = classes.reshape(-1)
        self.is_pinned = pinned[self.first]
        self.counts = np.bincount(self.class_of)
        self.occurrences = occurrences[self.first].tocsc()  # (classes, arrays)
        self._find_scope(coupling, whole=constraints is None)

    def _find_scope(self, coupling, whole):
        """The classes that the constraints can change, by way of groups."""
        ties, column, constrained, growing = [], self.axes, [], []
        for grouping in coupling.groupings:
            count = sum(len(side) for side in grouping.sides)
            ties.append(self._classes_in(range(column, column + count)))
            column += count
        for each in self.constraints:
            ties.append(self._classes_in(range(column, column + 2)))
            constrained.extend(ties[-1].tolist())
            growing.extend(ties[-1].tolist() if each.hard or each.size > each.current else ())
            column += 2
        component = tied_by_columns([tied[:, None] for tied in ties], len(self.first))
        reached = np.isin(component, component[constrained]) | whole
        self.scope = np.flatnonzero(reached & ~self.is_pinned)
        # No size that is to become smaller is met with new units.
        self.grows = np.isin(component, component[growing])[self.scope]
        self.removable = np.isin(self.class_of, self.scope)

    def _classes_in(self, columns):
        classes = [self.occurrences[:, [column]].indices for column in columns]
        classes = np.unique(np.concatenate([np.empty(0, int), *classes]))
        return classes[~self.is_pinned[classes]]

    def scaled(self, values, cheap):
        """Utilities from 0.1 to 1, in proportion, so that no unit goes without need."""
        values = np.asarray(values, float)
        finite = np.isfinite(values) & self.removable
        low, high = values[finite].min(initial=np.inf), values[finite].max(initial=-np.inf)
        scaled = np.full(len(values), 0.1)
        if finite.any():
            scaled[finite] = 0.1 + 0.9 * (values[finite] - low) / ((high - low) or 1.0)
        scaled[~np.isfinite(values)] = 0.05
        scaled[np.asarray(cheap, int)] *= 0.01
        return scaled

    def nearest(self, utility, cost):
        """The sizes nearest to those asked for that can be met, or None."""
        sizes = [each.size for each in self.constraints]
        counts = self.solve(-1e-6 * utility, 1e-6 * cost, sizes, slack=True)
        if counts is None:
            return None
        solution = self.solution(*counts, utility)
        return [solution.size(each) for each in self.constraints]

    def solve(self, costs, new_costs, sizes, *, slack=False):
        """How many units of each class in scope stay and how many are new, or None."""
        program = IntegerProgram()
        pairs = zip(self.constraints, sizes, strict=True)
        bound = sum(abs(size) + len(each.units) for each, size in pairs)
        units = np.flatnonzero(self.removable)
        x = program.add_variables(costs[units], np.ones(len(units)), integer=False)
        kept = program.add_variables(np.zeros(len(self.scope)), self.counts[self.scope])
        new = program.add_variables(new_costs[self.scope], bound * self.grows)
        index = np.full(len(self.first), -1)
        index[self.scope] = np.arange(len(self.scope))
        program.add_sums(x, kept[index[self.class_of[units]]], kept)
        variables = np.concatenate([kept, new])

        def count(column):
            """The number of positions in an array: variables, their factors, and a constant."""
            start, stop = self.occurrences.indptr[column : column + 2]
            classes = self.occurrences.indices[start:stop]
            often = self.occurrences.data[start:stop].astype(float)
            is_variable = index[classes] >= 0
            factors = np.zeros(len(self.scope))
            factors[index[classes[is_variable]]] = often[is_variable]
            fixed = (often * self.counts[classes])[~is_variable].sum()
            return variables, np.concatenate([factors, factors]), fixed

        self._add_sizes(program, count, sizes, slack)
        self._add_groups(program, count, bound + int(self.counts.sum()))
        self._add_axes(program, index, kept, new)
        if self.verbose and len(units) > _LARGE:
            print(
                f"Choosing among {len(units):,} units in {len(self.scope):,} equivalence classes "
                f"under {len(program.lower):,} constraints, for at most {self.time_limit:g} s.",
                flush=True,
            )
        result = self._minimize(program)
        if result is None:
            return None
        return np.rint(result[kept]).astype(int), np.rint(result[new]).astype(int)

    def _minimize(self, program):
        if not program.count:
            bounds = zip(program.lower, program.upper, strict=True)
            return np.empty(0) if all(lower <= 0 <= upper for lower, upper in bounds) else None
        # Mostly the relaxation has integers already, and is solved in no time.
        result = program.minimize(self.time_limit, relaxed=True)
        if result.status == 0 and program.is_integral(result.x):
            return result.x
        result = program.minimize(self.time_limit)
        if result.status == _TIME_IS_UP and result.x is None:
            raise RuntimeError(_timeout_message(self.time_limit))
        return result.x

    def _add_sizes(self, program, count, sizes, slack):
        column = self.occurrences.shape[1] - 2 * len(self.constraints)
        for each, size in zip(self.constraints, sizes, strict=True):
            (indices, ours, fixed), (_, theirs, less) = count(column), count(column + 1)
            values, total = ours - theirs, size - fixed + less
            if slack and not each.hard:
                costs = [1.0, 1.001] if size > each.current else [1.001, 1.0]
                over_and_under = program.add_variables(costs, np.full(2, 1e6))
                indices, values = [*indices, *over_and_under], [*values, -1.0, 1.0]
            program.add_constraint(indices, values, total, total)
            column += 2

    def _add_groups(self, program, count, bound):
        """Groups that stay have equally many units on each side."""
        column = self.axes
        for grouping in self.coupling.groupings:
            sides = []
            for side in grouping.sides:
                sides.append([count(column + group) for group in range(len(side))])
                column += len(side)
            touched = any(values.any() for side in sides for _, values, _ in side)
            if not touched:
                continue
            groups = len(sides[0])
            stay = program.add_variables(np.zeros(groups), np.ones(groups))
            program.add_constraint(stay, np.ones(groups), 1 if grouping.whole else groups, groups)
            for side in sides:
                (size,) = program.add_variables([0.0], [bound], lower=1)
                for stays, (indices, values, fixed) in zip(stay, side, strict=True):
                    program.add_constraint([*indices, stays], [*values, -bound], -np.inf, -fixed)
                    program.add_constraint([*indices, size], [*values, -1], -np.inf, -fixed)
                    program.add_constraint(
                        [*indices, size, stays], [*values, -1, -bound], -bound - fixed, np.inf
                    )

    def _add_axes(self, program, index, kept, new):
        """No axis of a tensor or weight is left without any position."""
        seen = set()
        for column in range(self.axes):
            start, stop = self.occurrences.indptr[column : column + 2]
            classes = index[self.occurrences.indices[start:stop]]
            key = tuple(np.sort(classes).tolist())
            if key in seen or not key or key[0] < 0:  # something in it stays anyway
                continue
            seen.add(key)
            both = [*kept[classes], *new[classes]]
            program.add_constraint(both, np.ones(len(both)), 1, np.inf)

    def solution(self, kept, new, utility):
        """The `Solution` in which the units of the highest utility of each class stay."""
        stays, grown = np.ones(self.coupling.size, bool), []
        by_class = np.argsort(self.class_of, kind="stable")
        ends = np.cumsum(self.counts)
        for each, stay, added in zip(self.scope, kept, new, strict=True):
            units = by_class[ends[each] - self.counts[each] : ends[each]]
            worst = np.argsort(utility[units], kind="stable")[: len(units) - stay]
            stays[units[worst]] = False
            if added:
                grown.append((units, int(added)))
        return Solution(stays, tuple(grown), utility)


def _timeout_message(time_limit):
    return (
        "The sizes were not solved in time, and nothing was changed. "
        f"Received: time_limit={time_limit:g}. Allow more, or ask for fewer sizes at once."
    )


def _impossible(coupling, constraints):
    hard = [each for each in constraints if each.hard] or constraints
    return (
        "There are no sizes at which this fits together, and nothing was changed. Received: "
        f"{_listed([each.name for each in hard])}.{_pins_message(coupling, hard)} Units of the "
        "inputs and outputs of the model keep their number; see `tfprune.explain(model)`."
    )


def _unmet(coupling, constraints, sizes):
    soft = [each for each in constraints if not each.hard]
    wanted = [f"{each.name} of size {each.current} asked to be {each.size}" for each in soft]
    pairs = zip(constraints, sizes, strict=True)
    reachable = [f"{each.name}: {size}" for each, size in pairs if not each.hard]
    least = " A size is never below 1." if any(each.size < 1 for each in soft) else ""
    return (
        "The sizes cannot be met, and nothing was changed. "
        f"Received: {_listed(wanted)}. The nearest that can: {_listed(reachable)}."
        f"{_pins_message(coupling, soft)}{least} Ask for these, or take them with `relaxed=True`."
    )


def _pins_message(coupling, constraints):
    """Why units that constraints count cannot be removed or added, as a sentence."""
    units = np.unique(np.concatenate([each.units for each in constraints]))
    pins = {coupling.pins[u] for u in units.tolist() if u in coupling.pins}
    names = {each.name for each in constraints}
    for call in coupling.trace.calls:
        if repr(call.operation.name) in names and isinstance(call.operation, keras.Layer):
            pins.update(_keras.changed_kernels(call.operation))
    pins = sorted(pins)
    return f" What holds units: {_listed(pins)}." if pins else ""


def _listed(items):
    return "; ".join(items)
