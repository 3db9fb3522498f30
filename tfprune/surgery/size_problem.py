"""The sizes of a model as integer programs: equivalence classes of units, and what ties them.

Units that occur in the same slices and tensors are equivalent: they are exchangeable but for their
utility, so an equivalence class has two integers, how many of it stay and how many are new. With
x_u from 0 to 1 for each unit,

    minimise    sum_u loss_u (1 - x_u) + sum_k cost_k new_k
    subject to  sum_{u of class k} x_u = kept_k,
                lowest <= sum_k signs_k (kept_k + new_k) <= highest  for each size constraint,
                equal counts in the groups that stay                 for grouped layers,
                kept + new >= 1                                      for each axis of a tensor or
                                                                     weight.

Given how many of a class stay, those of the highest utility do, so no x needs to be an integer. The
linear relaxation mostly gives integers already and takes milliseconds. What constraints do not tie
together are problems of their own, the parts.
"""

from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array, vstack
from scipy.sparse.csgraph import connected_components

from tfprune._tools.integer_program import IntegerProgram
from tfprune.coupling.labels import FIXED
from tfprune.surgery.sizes import LARGEST
from tfprune.units.incidence import incidence, row_hashes, tied_by_columns

_TIME_IS_UP, _INFEASIBLE = 1, 2  # statuses of `scipy.optimize.milp`


@dataclass(frozen=True, eq=False)
class Solution:
    """The units that stay, and how many are added.

    Attributes:
        kept: For each unit, whether it stays.
        new: Pairs of the units of an equivalence class, in order, and how many are added to it.
        utilities: For each unit its utility; 0 where it was not evaluated.
        same: For each unit the first of those that stay, go and grow with it.
        inserted: For each of the edges that a `SizeProblem` is given the unit beside which those
            that it brings come, and how many these are.
    """

    kept: np.ndarray
    new: tuple
    utilities: np.ndarray
    same: np.ndarray
    inserted: tuple = ()

    def size(self, constraint):
        """How many positions a `SizeConstraint` counts in the solution."""
        counts = np.zeros(len(self.kept), int) if constraint.counts_new else self.kept.astype(int)
        for units, count in self.new:
            counts[self.same == units[-1]] += count
        # A new unit stands wherever any of its class does, so the last of a class speaks for it.
        found = (constraint.signs * counts[constraint.units]).sum()
        for beside, count in self.inserted if constraint.counts_inserted else ():
            found += constraint.signs[constraint.units == beside].sum() * count
        return int(found)


class SizeProblem:
    """The equivalence classes of units that may change, and the constraints among them.

    Args:
        coupling: The units.
        constraints: The `SizeConstraint`s.
        ties: Pairs of units that stay, go and grow together although they are not coupled.
        inserted: For each edge that brings new units a pair: a unit beside which they come, and the
            unit of each position that the edge takes.
        whole: Whether all units may change, not only what constraints count and what they tie.

    Attributes:
        removable: For each unit, whether it may go.
        same: For each unit the first of those that it is tied to.
        parts: The `_Part`s.
    """

    def __init__(self, coupling, constraints, ties=(), inserted=(), whole=False):
        self.coupling, self.constraints, self.inserted = coupling, list(constraints), inserted
        self.same = _firsts(coupling.size, ties)
        arrays = [
            group
            for grouping in coupling.groupings
            for side in grouping.sides
            for group in coupling.roots[side]
        ]
        self.factors = [np.unique(each.signs) for each in self.constraints]
        for each, factors in zip(self.constraints, self.factors, strict=True):
            arrays += [each.units[each.signs == factor] for factor in factors]
        arrays += [units for _, units in inserted]
        self._classify(incidence(coupling, arrays))
        # Columns from here on may be left without units.
        self.axes = len(coupling.slices) + len(coupling.tensor_labels)
        columns = {}
        for column in range(self.axes):
            classes = np.sort(self.classes_of(column)[0])
            if len(classes) and not self.is_pinned[classes].any():
                columns[classes.tobytes()] = classes
        self._axes = list(columns.values())
        self.groups, self.counted, self.taken = self._columns()
        self._leave_out_inserted()
        self._divide(whole)

    def _classify(self, occurrences):
        """Finds the classes: of units that are there, then one for each edge that is inserted."""
        size = self.coupling.size
        pinned = np.zeros(size, bool)
        pinned[[FIXED, *self.coupling.pins]] = True
        beside = np.array([unit for unit, _ in self.inserted], int)
        news, news_pinned = occurrences[beside], pinned[beside]
        np.logical_or.at(pinned, self.same, pinned.copy())
        tying = csr_array((np.ones(size, np.uint64), (self.same, np.arange(size))))
        occurrences = (tying @ occurrences).tocsr()
        stands = np.flatnonzero(self.same == np.arange(size))
        hashes = np.stack([row_hashes(occurrences), pinned.astype(np.uint64)], axis=1)[stands]
        _, first, classes = np.unique(hashes, axis=0, return_index=True, return_inverse=True)
        self.first = stands[first]
        self.class_of = np.full(size, -1)
        self.class_of[stands] = classes.reshape(-1)
        self.class_of = self.class_of[self.same]
        self.counts = np.append(np.bincount(classes.reshape(-1)), np.zeros(len(beside), int))
        self.is_pinned = np.append(pinned[self.first], news_pinned)
        self.occurrences = vstack([occurrences[self.first], news]).tocsc()  # (classes, arrays)
        self.stands = stands

    def _columns(self):
        """The columns of each grouping, of each constraint and of each edge that is inserted."""
        column, groups, counted = self.axes, [], []
        for grouping in self.coupling.groupings:
            sides = []
            for side in grouping.sides:
                sides.append(range(column, column + len(side)))
                column += len(side)
            groups.append(sides)
        for factors in self.factors:
            counted.append(range(column, column + len(factors)))
            column += len(factors)
        return groups, counted, range(column, column + len(self.inserted))

    def _leave_out_inserted(self):
        """What comes beside a unit is counted as that unit is, but where a constraint says no."""
        of_news = len(self.counts) - len(self.inserted)
        for each, columns in zip(self.constraints, self.counted, strict=True):
            for column in columns if not each.counts_inserted else ():
                start, stop = self.occurrences.indptr[column : column + 2]
                is_new = self.occurrences.indices[start:stop] >= of_news
                self.occurrences.data[start:stop][is_new] = 0

    def _classes_in(self, columns):
        """The classes in columns that may change."""
        classes = [self.classes_of(column)[0] for column in columns]
        classes = np.unique(np.concatenate([np.empty(0, int), *classes]))
        return classes[~self.is_pinned[classes]]

    def classes_of(self, column):
        """The classes in a column, and how often they occur in it."""
        start, stop = self.occurrences.indptr[column : column + 2]
        return self.occurrences.indices[start:stop], self.occurrences.data[start:stop].astype(int)

    def _divide(self, whole):
        """Divides the classes that constraints can change into parts."""
        of_news = len(self.counts) - len(self.inserted)
        ties = [self._classes_in([c for side in sides for c in side]) for sides in self.groups]
        constrained = [self._classes_in(columns) for columns in self.counted]
        for index, column in enumerate(self.taken):
            news = np.array([of_news + index])
            constrained.append(np.append(self._classes_in([column]), news))
        ties += [*constrained, *self._shared_axes()]
        component = tied_by_columns([tied[:, None] for tied in ties], len(self.counts))
        reached = np.unique(component[np.concatenate([np.empty(0, int), *constrained])])
        if whole:
            reached = np.unique(component[~self.is_pinned])
        scope = np.isin(component, reached) & ~self.is_pinned
        self.removable = scope[self.class_of]
        numbers = np.full(len(scope), -1)
        numbers[scope] = np.searchsorted(reached, component[scope])
        lists = [([], [], [], []) for _ in reached]
        for index, tied in enumerate(constrained):
            if not len(tied):  # it counts what cannot change: met, or not
                lists.append(([index], [], [], []))
            elif index < len(self.constraints):
                lists[numbers[tied[0]]][0].append(index)
            else:
                lists[numbers[tied[0]]][1].append(index - len(self.constraints))
        for index, tied in enumerate(ties[: len(self.groups)]):
            if len(tied) and numbers[tied[0]] >= 0:
                lists[numbers[tied[0]]][2].append(index)
        for classes in self._axes:
            if (numbers[classes] == numbers[classes[0]]).all() and numbers[classes[0]] >= 0:
                lists[numbers[classes[0]]][3].append(classes)
        self.parts = [
            _Part(self, np.flatnonzero(numbers == number), *each)
            for number, each in enumerate(lists)
        ]

    def _shared_axes(self):
        """The classes of each axis that keeps a unit only because it is said of the axis itself."""
        alone = [classes[0] for classes in self._axes if len(classes) == 1]
        return [c for c in self._axes if len(c) > 1 and not np.isin(c, alone).any()]

    def solution(self, kept, new, utility):
        """The `Solution` in which the units of the highest utility of each class stay.

        Args:
            kept, new: For each class how many units stay, and how many are new.
            utility: For each unit its utility.
        """
        stays, grown = np.ones(self.coupling.size, bool), []
        classes = self.class_of[self.stands]
        by_class = self.stands[np.argsort(classes, kind="stable")]
        ends = np.cumsum(self.counts)
        for each in np.flatnonzero((kept != self.counts) | (new > 0)):
            if each >= len(self.counts) - len(self.inserted):
                continue
            units = by_class[ends[each] - self.counts[each] : ends[each]]
            worst = np.argsort(utility[units], kind="stable")[: len(units) - kept[each]]
            stays[units[worst]] = False
            if new[each]:
                grown.append((units, int(new[each])))
        brought = new[len(new) - len(self.inserted) :].tolist()
        inserted = [(unit, n) for (unit, _), n in zip(self.inserted, brought, strict=False)]
        return Solution(stays[self.same], tuple(grown), utility, self.same, tuple(inserted))


class _Part:
    """Classes that constraints tie together, and these constraints.

    Attributes:
        constraints: The `SizeConstraint`s.
        scope: The classes.
        axes: For each axis of a tensor or weight, the classes in it, where all are in scope.
    """

    def __init__(self, problem, scope, constraints, inserted, groupings, axes):
        self.problem, self.scope, self.axes = problem, scope, axes
        self.columns = [problem.counted[index] for index in constraints]
        self.factors = [problem.factors[index] for index in constraints]
        self.constraints = [problem.constraints[index] for index in constraints]
        news = len(problem.counts) - len(problem.inserted)
        self.inserted = [(problem.taken[index], news + index) for index in inserted]
        self.groupings = groupings
        self.index = np.full(len(problem.counts), -1)
        self.index[scope] = np.arange(len(scope))
        stands = problem.stands
        self.units = stands[self.index[problem.class_of[stands]] >= 0]

    def solve(self, losses, costs, bounds, limits, *, goes, grows, slack=()):
        """How many units of each class in scope stay and how many are new, or None.

        Args:
            losses: For each unit what it costs to remove it.
            costs: For each class what it costs to add a unit.
            bounds: For each constraint the lowest and highest number, and what it is a multiple of.
            limits: The time limit in seconds, and whether to print how large the program is.
            goes: For each unit, whether it may go.
            grows: For each class, whether units may be added.
            slack: The indices of constraints that are met as nearly as possible.
        """
        program, scope = IntegerProgram(), self.scope
        counts = self.problem.counts[scope]
        classes = self.index[self.problem.class_of[self.units]]
        changes = np.zeros(len(scope), bool)
        changes[classes[goes[self.units]]] = True
        units, classes = self.units[changes[classes]], classes[changes[classes]]
        lowest = np.where(changes, 0, counts)
        x = program.add_variables(-losses[units], np.ones(len(units)), ~goes[units], integer=False)
        kept = program.add_variables(np.zeros(len(scope)), counts, lowest)
        new = program.add_variables(costs[scope], self._largest(bounds) * grows[scope])
        program.add_sums(x, kept[classes], kept[changes])
        self._add_sizes(program, kept, new, bounds, slack)
        self._add_groups(program, kept, new, self._largest(bounds))
        self._add_axes(program, kept, new)
        for column, news in self.inserted:
            indices, values, fixed = self._count(column, kept, new)
            place = new[self.index[news]]
            program.add_constraint([*indices, place], [*values, -1], -fixed, -fixed)
        limits.announce(len(units), len(scope), len(program.lower))
        result = _minimize(program, limits)
        if result is None:
            return None
        return np.rint(result[kept]).astype(int), np.rint(result[new]).astype(int)

    def _largest(self, bounds):
        """A number of new units that none needs more than."""
        finite = sum(abs(bound) for each in bounds for bound in each[:2] if abs(bound) < LARGEST)
        multiples = np.prod([min(each[2], 1000) for each in bounds])
        positions = sum(len(each.units) for each in self.constraints)
        return float(min(finite + multiples + positions + self.problem.counts.sum(), LARGEST))

    def _count(self, column, kept, new, only_new=False):
        """The number of positions in a column: variables, their factors, and a constant."""
        classes, often = self.problem.classes_of(column)
        places = self.index[classes]
        inside = places >= 0
        factors = often[inside].astype(float)
        fixed = (often * self.problem.counts[classes])[~inside].sum()
        if only_new:
            return new[places[inside]], factors, 0
        indices = np.concatenate([kept[places[inside]], new[places[inside]]])
        return indices, np.concatenate([factors, factors]), fixed

    def _add_sizes(self, program, kept, new, bounds, slack):
        parts = zip(self.constraints, self.columns, self.factors, bounds, strict=True)
        for number, (each, columns, factors, (lowest, highest, multiple)) in enumerate(parts):
            found = [self._count(c, kept, new, each.counts_new) for c in columns]
            indices = np.concatenate([np.empty(0, int), *(i for i, _, _ in found)])
            pairs = zip(found, factors, strict=True)
            values = np.concatenate([np.empty(0), *(v * factor for (_, v, _), factor in pairs)])
            fixed = sum(f * factor for (_, _, f), factor in zip(found, factors, strict=True))
            if number in slack:
                costs = [1.0, 1.001] if lowest > each.current else [1.001, 1.0]
                over_and_under = program.add_variables(costs, np.full(2, LARGEST))
                indices, values = [*indices, *over_and_under], [*values, -1.0, 1.0]
            # A class may be in several columns: what it counts is summed by the sparse matrix.
            program.add_constraint(indices, values, lowest - fixed, highest - fixed)
            if multiple > 1:
                (times,) = program.add_variables([0.0], [LARGEST], lower=1)
                program.add_constraint(
                    [*indices, times], [*values, -float(multiple)], -fixed, -fixed
                )

    def _add_groups(self, program, kept, new, bound):
        """Groups that stay have equally many units on each side."""
        for index in self.groupings:
            is_whole = self.problem.coupling.groupings[index].whole
            sides = [
                [self._count(column, kept, new) for column in side]
                for side in self.problem.groups[index]
            ]
            groups = len(sides[0])
            stay = program.add_variables(np.zeros(groups), np.ones(groups))
            program.add_constraint(stay, np.ones(groups), 1 if is_whole else groups, groups)
            for side in sides:
                (size,) = program.add_variables([0.0], [bound], lower=1)
                for stays, (indices, values, fixed) in zip(stay, side, strict=True):
                    program.add_constraint([*indices, stays], [*values, -bound], -np.inf, -fixed)
                    program.add_constraint([*indices, size], [*values, -1], -np.inf, -fixed)
                    program.add_constraint(
                        [*indices, size, stays], [*values, -1, -bound], -bound - fixed, np.inf
                    )

    def _add_axes(self, program, kept, new):
        """No axis of a tensor or weight is left without any position."""
        for classes in self.axes:
            places = self.index[classes]
            both = [*kept[places], *new[places]]
            program.add_constraint(both, np.ones(len(both)), 1, np.inf)


def _minimize(program, limits):
    """The values of the variables, or None where no values meet the constraints."""
    if not program.count:
        bounds = zip(program.lower, program.upper, strict=True)
        return np.empty(0) if all(lower <= 0 <= upper for lower, upper in bounds) else None
    # Mostly the relaxation has integers already, and is solved in no time.
    result = program.minimize(limits.time_limit, relaxed=True)
    if result.status == _INFEASIBLE:
        return None
    if result.status == 0 and program.is_integral(result.x):
        return result.x
    result = program.minimize(limits.time_limit)
    if result.status == _TIME_IS_UP and result.x is None:
        raise RuntimeError(
            "The sizes were not solved in time, and nothing was changed. Received: "
            f"time_limit={limits.time_limit:g}. Allow more, or ask for fewer sizes at once."
        )
    return result.x


def _firsts(size, ties):
    """For each number the first of those that pairs tie it to."""
    if not len(ties):
        return np.arange(size)
    ties = np.asarray(ties, int).reshape(-1, 2)
    graph = csr_array((np.ones(len(ties), bool), (ties[:, 0], ties[:, 1])), shape=(size, size))
    _, component = connected_components(graph, directed=False)
    _, first = np.unique(component, return_index=True)
    return first[component]
