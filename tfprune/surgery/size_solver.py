"""Solves for the sizes of layers: which units stay and how many are added.

What is asked for is met in the first of these ways that there is, of each part of the problem:

1. without the loss of a trained unit, with as few new units as possible;
2. with units that go only, such that those that stay have the highest sum of utilities;
3. with units that go and units that come: first with the lowest loss of utilities, then with as few
   new units as possible.

A part in which only more units are asked for is met in the first way, or refused. Where no size is
asked for, because an edit only needs two sizes to be equal, a new unit costs 1.5 times as much as
the best of the old ones is worth.
"""

from dataclasses import dataclass

import numpy as np

from tfprune.surgery.refusals import refuse
from tfprune.surgery.size_problem import SizeProblem

_LARGE = 5000  # units from which on a message tells what is being solved
_NEW, _FIRST = 1.5, 1000  # the cost of a new unit, and what makes a loss count before all of them


def solve(
    coupling,
    constraints,
    utilities,
    *,
    relaxed=False,
    cheap=(),
    ties=(),
    inserted=(),
    ranked=False,
    time_limit=60.0,
    verbose=0,
):
    """The units to keep and to add so that sizes are met.

    Args:
        coupling: The units.
        constraints: The `SizeConstraint`s, at least one.
        utilities: Function of a boolean array over units that returns the utility of each unit;
            only those of the units that are True are used. Values that are not finite count as
            worst. It is called if units may go.
        relaxed: Whether all sizes that cannot be met are met as nearly as they can be.
        cheap: Units that may go wherever, because the layers that make them are removed.
        ties, inserted: See `SizeProblem`.
        ranked: Whether the utilities are needed even if no unit goes.
        time_limit: Seconds.
        verbose: 0 is quiet, 1 says what is solved.

    Returns:
        A `Solution`.

    Raises:
        ValueError: If sizes cannot be met, with the nearest that can.
        RuntimeError: If the time is up.
    """
    problem = SizeProblem(coupling, constraints, ties, inserted)
    choice = _Choice(problem, utilities, cheap, _Limits(time_limit, verbose))
    if ranked:
        choice.rank()
    kept, new, refused = problem.counts.copy(), np.zeros(len(problem.counts), int), []
    for part in problem.parts:
        found = choice.of(part, relaxed)
        if found is None:
            refused.append(part)
        else:
            kept[part.scope], new[part.scope] = found
    if refused:
        refuse(coupling, choice, refused)
    return problem.solution(kept, new, choice.utility)


def remove_negative(coupling, utilities, *, time_limit=60.0, verbose=0):
    """The units to keep when all of negative utility are removed that can be spared.

    Args:
        coupling, utilities, time_limit, verbose: As in `solve`.

    Returns:
        A `Solution`.
    """
    problem = SizeProblem(coupling, (), whole=True)
    values = np.asarray(utilities(problem.removable), float)
    finite = np.isfinite(values)
    scale = np.abs(values[finite & problem.removable]).max(initial=0) or 1.0
    values = np.where(finite, values / scale, -1.0)
    # Units of utility 0 stay; no utility is so small that a solver overlooks it.
    values = np.where(values < 0, np.minimum(values, -1e-4), np.maximum(values, 1e-4))
    kept, none = problem.counts.copy(), np.zeros(len(problem.counts))
    limits = _Limits(time_limit, verbose)
    for part in problem.parts:
        kept[part.scope], _ = part.solve(
            values, none, [], limits, goes=problem.removable, grows=none.astype(bool)
        )
    return problem.solution(kept, none.astype(int), values)


@dataclass(frozen=True)
class _Limits:
    time_limit: float
    verbose: int

    def announce(self, units, classes, constraints):
        """Says how large a program is, if it is large."""
        if self.verbose and units > _LARGE:
            print(
                f"Choosing among {units:,} units in {classes:,} equivalence classes "
                f"under {constraints:,} constraints, for at most {self.time_limit:g} s.",
                flush=True,
            )


class _Choice:
    """Chooses the numbers of units of parts of a problem.

    Attributes:
        problem: The `SizeProblem`.
        utility: For each unit its utility from 0 to 1, 0 where it was not evaluated.
    """

    def __init__(self, problem, utilities, cheap, limits):
        self.problem, self.limits, self._utilities = problem, limits, utilities
        self.is_cheap = np.zeros(problem.coupling.size, bool)
        self.is_cheap[np.asarray(cheap, int)] = True
        self.utility, self._is_ranked = np.zeros(problem.coupling.size), False
        classes = len(problem.first)
        last = np.zeros(classes)
        np.maximum.at(last, problem.class_of, np.arange(problem.coupling.size))
        late = 1 - 1e-4 * last / problem.coupling.size
        self.costs = np.zeros(len(problem.counts))  # what an edge brings costs nothing
        self.costs[:classes] = np.where(self.is_cheap[problem.first], 0.01 * _NEW, _NEW) * late
        self.grows = np.ones(len(problem.counts), bool)
        self.grows[:classes] = ~self._asked_to_shrink()[problem.first]
        self.brought = np.ones(len(problem.counts), bool)
        self.brought[:classes] = self.is_cheap[problem.first] & self.grows[:classes]

    def _asked_to_shrink(self):
        """For each unit, whether its layer is asked to have fewer, so that no new ones come."""
        size = self.problem.coupling.size
        layer, shrinks, other = np.zeros(size, int), np.zeros(size, bool), np.zeros(size, bool)
        for number, unit_set in enumerate(self.problem.coupling.sets, 1):
            layer[unit_set.units] = number
        for each in self.problem.constraints:
            if self._asks_for_less(each) and len(np.unique(layer[each.units])) == 1:
                shrinks[each.units] = True
            elif not each.hard:
                other[each.units] = True
        asked = shrinks & ~other
        np.logical_or.at(asked, self.problem.same, asked.copy())
        return asked[self.problem.same]

    def of(self, part, relaxed):
        """How many units of each class stay and are new, or None if there is no way."""
        bounds = [each.bounds for each in part.constraints]
        found = self.first_way(part, bounds)
        soft = [i for i, each in enumerate(part.constraints) if not each.hard]
        slack = [i for i in soft if relaxed or part.constraints[i].is_relaxed]
        if found is not None or not slack:
            return found
        sizes = self.nearest(part, slack)
        if sizes is None:
            return None
        bounds = [(sizes[i],) * 2 + (1,) if i in slack else b for i, b in enumerate(bounds)]
        return self.first_way(part, bounds)

    def first_way(self, part, bounds, may_lose=None):
        """The numbers of units in the first of the ways that there is, or None.

        Args:
            part, bounds: As in `_Part.solve`.
            may_lose: Whether trained units may go; by default unless only more are asked for.
        """
        may_lose = not self.only_grows(part) if may_lose is None else may_lose
        if any(not each.hard for each in part.constraints):
            losses = self._losses(np.ones(len(self.utility)), 1)
            found = self._solve(part, losses, bounds, goes=self.is_cheap)
            if found is not None or not may_lose:
                return found
            self.rank()
            everywhere = self.problem.removable
            found = self._solve(part, self.utility, bounds, goes=everywhere, grows=self.brought)
            if found is not None:
                return found
            return self._solve(part, self._losses(self.utility, _FIRST), bounds, goes=everywhere)
        self.rank()
        return self._solve(part, self.utility, bounds, goes=self.problem.removable)

    def nearest(self, part, slack):
        """The sizes nearest to those asked for that can be met, or None.

        Args:
            part: The part of the problem.
            slack: The indices of the constraints that need not be met.
        """
        if self.only_grows(part):
            sizes = self._nearest(part, slack, self.is_cheap)
            if sizes is not None:
                return sizes
        return self._nearest(part, slack, self.problem.removable)

    def _nearest(self, part, slack, goes):
        bounds = [each.bounds for each in part.constraints]
        losses = np.where(self.is_cheap, 1e-8, 1e-6)
        found = part.solve(
            losses,
            1e-6 * self.costs,
            bounds,
            self.limits,
            goes=goes,
            grows=self.grows,
            slack=slack,
        )
        return None if found is None else self.sizes(part, found)

    def sizes(self, part, found):
        """The number that each constraint of a part counts in what was found."""
        solution = self.solution(part, found)
        return [solution.size(each) for each in part.constraints]

    def solution(self, part, found):
        """The `Solution` with what was found for a part, and all else as it is."""
        kept, new = self.problem.counts.copy(), np.zeros(len(self.problem.counts), int)
        kept[part.scope], new[part.scope] = found
        return self.problem.solution(kept, new, self.utility)

    def only_grows(self, part):
        """Whether a part only asks for more units, so that no trained one goes."""
        asks = [self._asks_for_more(each) for each in part.constraints]
        return any(asks) and not any(self._asks_for_less(each) for each in part.constraints)

    def _asks_for_more(self, each):
        """Whether a constraint only asks for units to come."""
        is_sum = (each.signs > 0).all() and not each.counts_new and not each.hard
        return is_sum and each.bounds[0] > self._count_if_all_stay(each)

    def _asks_for_less(self, each):
        """Whether one asks for units to go; also where it relates sizes, which may ask for both."""
        if each.hard or each.counts_new:
            return False
        lowest, highest, _ = each.bounds
        count, is_sum = self._count_if_all_stay(each), (each.signs > 0).all()
        return highest < count or not (is_sum or lowest <= count)

    def _count_if_all_stay(self, each):
        """What a constraint counts once inputs came and went, if all other units stay."""
        count = each.signs[~self.is_cheap[each.units]].sum()
        for beside, units in self.problem.inserted:
            count += each.signs[each.units == beside].sum() * len(units)
        return int(count)

    def rank(self):
        """Evaluates the utilities."""
        if not self._is_ranked:
            self.utility = self._scaled(np.asarray(self._utilities(self.problem.removable), float))
            self._is_ranked = True

    def _scaled(self, values):
        """Utilities from 0.1 to 1, in proportion, so that no unit goes without need."""
        same, removable = self.problem.same, self.problem.removable
        with np.errstate(invalid="ignore"):
            total = np.zeros(len(values))
            np.add.at(total, same, values)
            values = total[same]
        finite = np.isfinite(values) & removable
        low, high = values[finite].min(initial=np.inf), values[finite].max(initial=-np.inf)
        scaled = np.full(len(values), 0.1)
        if finite.any():
            scaled[finite] = 0.1 + 0.9 * (values[finite] - low) / ((high - low) or 1.0)
        scaled[~np.isfinite(values)] = 0.05
        scaled[self.is_cheap] *= 0.01
        return scaled

    def _losses(self, utility, factor):
        return np.where(self.is_cheap, np.minimum(utility, 0.01), factor * utility)

    def _solve(self, part, losses, bounds, *, goes, grows=None):
        grows = self.grows if grows is None else grows
        return part.solve(losses, self.costs, bounds, self.limits, goes=goes, grows=grows)
