"""Which units stay and how many come: an integer programme.

Units that stand in the same places are one kind: they are exchangeable but for their utility, so a
kind has two integers, how many of it stay and how many are new. With x_u from 0 to 1 for each unit,

    maximise    sum_u utility_u x_u - sum_k cost_k new_k
    subject to  sum_{u of kind k} x_u = kept_k,
                sum_k signs_k (kept_k + new_k) = size          for each size that is asked for,
                equal counts in the groups that stay           for grouped layers,
                kept + new >= 1                                for each axis of a tensor or weight.

Given how many of a kind stay, those of the highest utility do, so no x needs to be an integer. The
linear relaxation mostly gives integers already and takes milliseconds.
"""

from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from tfprune.coupling.labels import FIXED
from tfprune.surgery.integer_program import Programme, too_long

_LARGE = 5000  # units from which on a message tells what is being solved


@dataclass(frozen=True, eq=False)
class Solution:
    """What becomes of the units.

    Attributes:
        kept: For each unit, whether it stays.
        new: Pairs of units of a kind, in order, and how many new ones of it there are.
        utilities: For each unit what it is worth; 0 where nobody asked.
    """

    kept: np.ndarray
    new: tuple
    utilities: np.ndarray

    def size(self, row):
        """How many positions a row counts then."""
        counts = self.kept.astype(int)
        for units, count in self.new:
            counts[units[-1]] += count
        # A new unit stands wherever any of its kind does, so the last of a kind speaks for it.
        return int((row.signs * counts[row.units]).sum())


def solve(coupling, rows, utilities, *, relaxed=False, cheap=(), time_limit=60.0, verbose=0):
    """Finds which units stay and which come so that sizes are met.

    Args:
        coupling: The units.
        rows: The `Row`s, at least one.
        utilities: Function of a boolean array over units that gives, for each unit, what it is
            worth; only the units that are True are looked at. What is not finite counts as worst.
        relaxed: Whether sizes that cannot be met are met as nearly as they can be.
        cheap: Units that are worth little, because the layers that make them go.
        time_limit: Seconds.
        verbose: 0 is quiet, 1 says what is solved.

    Returns:
        A `Solution`.

    Raises:
        ValueError: If sizes cannot be met, with the nearest that can.
        RuntimeError: If the time is up.
    """
    problem = _Problem(coupling, rows, time_limit, verbose)
    worth = problem.positive(utilities(problem.free), cheap)
    cost = np.where(np.isin(problem.first, np.asarray(cheap, int)), 0.015, 1.5)
    found = problem.solved(-worth, cost, [row.size for row in rows])
    if found is None:
        sizes = problem.nearest(worth, cost)
        if sizes is None:
            raise ValueError(_impossible(coupling, rows))
        if not relaxed:
            raise ValueError(_unmet(coupling, rows, sizes))
        found = problem.solved(-worth, cost, sizes)
    if found is None:
        raise RuntimeError(too_long(time_limit))
    return problem.solution(*found, worth)


def without_negative(coupling, utilities, *, time_limit=60.0, verbose=0):
    """Finds the units that stay when all of negative utility go that can be spared.

    Args:
        coupling, utilities, time_limit, verbose: As in `solve`.

    Returns:
        A `Solution`.
    """
    problem = _Problem(coupling, None, time_limit, verbose)
    values = np.asarray(utilities(problem.free), float)
    finite = np.isfinite(values)
    scale = np.abs(values[finite & problem.free]).max(initial=0) or 1.0
    values = np.where(finite, values / scale, -1.0)
    # What is worth nothing stays; nothing is so small that a solver overlooks it.
    values = np.where(values < 0, np.minimum(values, -1e-4), np.maximum(values, 1e-4))
    found = problem.solved(-values, np.ones(len(problem.first)), [])
    if found is None:
        raise RuntimeError(too_long(time_limit))
    return problem.solution(*found, values)


class _Problem:
    """The kinds of units that may change, and the constraints among them.

    Attributes:
        free: For each unit, whether it may go.
        first: The first unit of each kind.
    """

    def __init__(self, coupling, rows, time_limit, verbose):
        self.coupling, self.rows = coupling, rows or []
        self.time_limit, self.verbose = time_limit, verbose
        groups = [
            coupling.roots[side[row]]
            for grouping in coupling.groupings
            for side in grouping.sides
            for row in range(len(side))
        ]
        arrays = [coupling.roots[piece.labels].reshape(-1) for piece in coupling.slices]
        arrays += [coupling.roots[a].reshape(-1) for a in coupling.tensor_labels.values()]
        self.least = len(arrays)  # columns from here on need not keep any
        arrays += groups
        for row in self.rows:
            arrays += [row.units[row.signs == 1], row.units[row.signs == -1]]
        self._find_kinds(coupling, arrays)
        self._find_scope(coupling, whole=rows is None)

    def _find_kinds(self, coupling, arrays):
        columns = np.repeat(np.arange(len(arrays)), [len(array) for array in arrays])
        units = np.concatenate(arrays)
        ones = np.ones(len(units), np.uint64)
        shape = (coupling.size, len(arrays))
        standing = csr_array((ones, (units, columns)), shape=shape)
        # Two kinds of units have the same mark by chance in one of 2**64 cases.
        marks = np.random.default_rng(0).integers(2**63, size=len(arrays), dtype=np.uint64)
        held = np.zeros(coupling.size, bool)
        held[[FIXED, *coupling.pins]] = True
        marks = np.stack([standing @ marks, held.astype(np.uint64)], axis=1)
        _, self.first, self.kind = np.unique(marks, axis=0, return_index=True, return_inverse=True)
        self.kind = self.kind.reshape(-1)
        self.is_held = held[self.first]
        self.held = held
        self.counts = np.bincount(self.kind)
        self.standing = standing[self.first].tocsc()  # (kinds, arrays)

    def _find_scope(self, coupling, whole):
        """The kinds that the rows can change, by way of groups."""
        ties, column, asked, growing = [], self.least, [], []
        for grouping in coupling.groupings:
            count = sum(len(side) for side in grouping.sides)
            ties.append(self._kinds_in(range(column, column + count)))
            column += count
        for row in self.rows:
            ties.append(self._kinds_in(range(column, column + 2)))
            asked.extend(ties[-1].tolist())
            growing.extend(ties[-1].tolist() if row.firm or row.size > row.now else ())
            column += 2
        edges = [(tied[0], other) for tied in ties for other in tied]
        ours, theirs = np.array(edges, int).reshape(-1, 2).T
        graph = csr_array((np.ones(len(ours), bool), (ours, theirs)), shape=(len(self.first),) * 2)
        component = connected_components(graph, directed=False)[1]
        reached = np.isin(component, component[asked]) | whole
        self.scope = np.flatnonzero(reached & ~self.is_held)
        # No size that is to become smaller is met with new units.
        self.grows = np.isin(component, component[growing])[self.scope]
        self.free = np.zeros(coupling.size, bool)
        self.free[np.isin(self.kind, self.scope)] = True

    def _kinds_in(self, columns):
        kinds = [self.standing[:, [column]].indices for column in columns]
        kinds = np.unique(np.concatenate([np.empty(0, int), *kinds]))
        return kinds[~self.is_held[kinds]]

    def positive(self, values, cheap):
        """Utilities from 0.1 to 1, in proportion, so that no unit goes without need."""
        values = np.asarray(values, float)
        finite = np.isfinite(values) & self.free
        low, high = values[finite].min(initial=np.inf), values[finite].max(initial=-np.inf)
        worth = np.full(len(values), 0.1)
        if finite.any():
            worth[finite] = 0.1 + 0.9 * (values[finite] - low) / ((high - low) or 1.0)
        worth[~np.isfinite(values)] = 0.05
        worth[np.asarray(cheap, int)] *= 0.01
        return worth

    def nearest(self, worth, cost):
        """The sizes nearest to those asked for that can be met, or None."""
        found = self.solved(-1e-6 * worth, 1e-6 * cost, [row.size for row in self.rows], slack=True)
        if found is None:
            return None
        solution = self.solution(*found, worth)
        return [solution.size(row) for row in self.rows]

    def solved(self, costs, new_costs, sizes, *, slack=False):
        """How many of each kind in scope stay and how many are new, or None."""
        programme = Programme()
        bound = sum(abs(size) + len(row.units) for row, size in zip(self.rows, sizes, strict=True))
        units = np.flatnonzero(self.free)
        x = programme.variables(costs[units], np.ones(len(units)), integer=False)
        kept = programme.variables(np.zeros(len(self.scope)), self.counts[self.scope])
        new = programme.variables(new_costs[self.scope], bound * self.grows)
        place = np.full(len(self.first), -1)
        place[self.scope] = np.arange(len(self.scope))
        programme.one_each(x, kept[place[self.kind[units]]], kept)
        count = _Counter(self, place, kept, new)
        self._add_sizes(programme, count, sizes, slack)
        self._add_groups(programme, count, bound + int(self.counts.sum()))
        self._add_least(programme, place, kept, new)
        self._say(len(units), len(programme.lower))
        result = programme.solved(self.time_limit)
        if result is None:
            return None
        return np.rint(result[kept]).astype(int), np.rint(result[new]).astype(int)

    def _add_sizes(self, programme, count, sizes, slack):
        column = self.standing.shape[1] - 2 * len(self.rows)
        for row, size in zip(self.rows, sizes, strict=True):
            (places, ours, fixed), (_, theirs, less) = count(column), count(column + 1)
            values, total = ours - theirs, size - fixed + less
            if slack and not row.firm:
                grows = size > row.now
                over, under = programme.variables(
                    [1.0 if grows else 1.001, 1.001 if grows else 1.0], np.full(2, 1e6)
                )
                places, values = [*places, over, under], [*values, -1.0, 1.0]
            programme.row(places, values, total, total)
            column += 2

    def _add_groups(self, programme, count, bound):
        """Groups that stay have equally many units on each side."""
        column = self.least
        for grouping in self.coupling.groupings:
            sides = []
            for side in grouping.sides:
                sides.append([count(column + row) for row in range(len(side))])
                column += len(side)
            touched = any(values.any() for side in sides for _, values, _ in side)
            if not touched:
                continue
            groups = len(sides[0])
            lives = programme.variables(np.zeros(groups), np.ones(groups))
            if grouping.whole:
                programme.row(lives, np.ones(groups), 1, groups)
            else:
                programme.row(lives, np.ones(groups), groups, groups)
            for side in sides:
                (size,) = programme.variables([0.0], [bound], lower=1)
                for life, (places, values, fixed) in zip(lives, side, strict=True):
                    programme.row([*places, life], [*values, -bound], -np.inf, -fixed)
                    programme.row([*places, size], [*values, -1], -np.inf, -fixed)
                    programme.row(
                        [*places, size, life], [*values, -1, -bound], -bound - fixed, np.inf
                    )

    def _add_least(self, programme, place, kept, new):
        """No axis of a tensor or weight is left without any position."""
        seen = set()
        for column in range(self.least):
            start, stop = self.standing.indptr[column : column + 2]
            kinds = self.standing.indices[start:stop]
            places = place[kinds]
            key = tuple(np.sort(places).tolist())
            if key in seen or not key or key[0] < 0:  # something in it stays anyway
                continue
            seen.add(key)
            both = [*kept[places], *new[places]]
            programme.row(both, np.ones(len(both)), 1, np.inf)

    def _say(self, units, rows):
        if self.verbose and units > _LARGE:
            print(
                f"Choosing among {units:,} units of {len(self.scope):,} kinds under {rows:,} "
                f"constraints, for at most {self.time_limit:g} s.",
                flush=True,
            )

    def solution(self, kept, new, worth):
        """Of each kind the units of the highest utility stay."""
        stays, grown = np.ones(self.coupling.size, bool), []
        by_kind = np.argsort(self.kind, kind="stable")
        ends = np.cumsum(self.counts)
        for kind, stay, come in zip(self.scope, kept, new, strict=True):
            units = by_kind[ends[kind] - self.counts[kind] : ends[kind]]
            worst = np.argsort(worth[units], kind="stable")[: len(units) - stay]
            stays[units[worst]] = False
            if come:
                grown.append((units, int(come)))
        return Solution(stays, tuple(grown), worth)


class _Counter:
    """How many positions stand in an array then, as places of variables, values and a number."""

    def __init__(self, problem, place, kept, new):
        self.problem, self.place, self.kept, self.new = problem, place, kept, new

    def __call__(self, column):
        standing = self.problem.standing
        start, stop = standing.indptr[column : column + 2]
        kinds, often = standing.indices[start:stop], standing.data[start:stop].astype(float)
        values = np.zeros(len(self.problem.scope))
        free = self.place[kinds] >= 0
        values[self.place[kinds[free]]] = often[free]
        fixed = (often * self.problem.counts[kinds])[~free].sum()
        return np.concatenate([self.kept, self.new]), np.concatenate([values, values]), fixed


def _impossible(coupling, rows):
    firm = [row for row in rows if row.firm] or rows
    return (
        "There are no sizes at which this fits together, and nothing was changed. "
        f"Received: {_listed([row.name for row in firm])}.{_held(coupling, firm)} Units of the "
        "inputs and outputs of the model keep their number; see `tfprune.explain(model)`."
    )


def _unmet(coupling, rows, sizes):
    asked = [row for row in rows if not row.firm]
    wanted = [f"{row.name} of size {row.now} asked to be {row.size}" for row in asked]
    reachable = [
        f"{row.name}: {size}" for row, size in zip(rows, sizes, strict=True) if not row.firm
    ]
    least = " A size is never below 1." if any(row.size < 1 for row in asked) else ""
    return (
        "The sizes cannot be met, and nothing was changed. "
        f"Received: {_listed(wanted)}. The nearest that can: {_listed(reachable)}."
        f"{_held(coupling, asked)}{least} Ask for these, or take them with `relaxed=True`."
    )


def _held(coupling, rows):
    """Why units that rows count cannot go or come, as a sentence."""
    units = np.unique(np.concatenate([row.units for row in rows]))
    pins = sorted({coupling.pins[u] for u in units.tolist() if u in coupling.pins})
    return f" What holds units: {_listed(pins)}." if pins else ""


def _listed(items):
    return "; ".join(items)
