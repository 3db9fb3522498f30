"""The scope "same_class": equal counts in all blocks, so that the model's own config can say them.

Numbers in the config decide about sizes (`tfprune.rebuild.config_numbers`). Some can become smaller
by themselves, such as the width of MLPs, others only together: where the size of a head is the
width over the number of heads, the two go in the same proportion. Which do is found by trying: a
move is a smallest set of numbers that can be divided alike so that units go and nothing else
changes.
"""

import itertools
import math
import weakref
from collections import Counter
from dataclasses import dataclass

import numpy as np

from tfprune.rebuild.config_numbers import ConfigNumbers, name_of, weights_in_order
from tfprune.rebuild.copying import copy_model
from tfprune.stripping.strip import strip
from tfprune.units import budgets
from tfprune.units.prunable import PrunableUnits
from tfprune.units.selection import limits
from tfprune.units.selection.costs import costs_for
from tfprune.units.selection.removal_groups import removal_groups

MOST_TRIED = 400
"""How many sets of numbers are tried."""

_moves_of = weakref.WeakKeyDictionary()


@dataclass(frozen=True, eq=False)
class Move:
    """Numbers in a config that become smaller together.

    Attributes:
        places: Their places in the config.
        parts: By what they can be divided: each keeps the same number out of so many parts.
        numbers: The `ConfigNumbers` of the model.
        counted: What works out units from shapes.
    """

    places: tuple
    parts: int
    numbers: object
    counted: object

    def counts(self, parts):
        """How many units each set keeps where so many parts are kept; see `_Counted.kept`."""
        before = self.numbers.before
        changed = {place: before[place] * parts // self.parts for place in self.places}
        shapes = self.numbers.shapes(changed)
        return None if shapes is None else self.counted.kept(shapes)

    def __str__(self):
        return f"{' with '.join(map(name_of, self.places))} ({self.parts} parts)"


def select_same_class(units, target, scoring, selection, progress=1.0):
    """The units to prune so that a model of the same class can have those that are kept.

    Args:
        units, scoring, progress: As in `select_units`.
        target: Float from 0 to 1, the fraction of units that each number in the config loses; or a
            budget, which all numbers meet together in the same proportion, as near as they can.
        selection: `Selection`.

    Returns:
        A boolean array over all units of the coupling.

    Raises:
        ValueError: If no numbers of the config can become smaller, or the budget cannot be met.
    """
    if isinstance(target, budgets.Latency):
        raise ValueError(
            "The scope 'same_class' serves budgets that are counted, and a latency is measured. "
            f"Received: target={target!r}. Take `Parameters`, `MACs` or `Bytes`."
        )
    moves = _moves(units)
    kept = _Kept(units, moves, selection, removal_groups(units, scoring.of(units)))
    if not isinstance(target, budgets.Budget):
        return kept.removed(1 - target)
    costs = costs_for(target, units)
    allowed = target.allowed(costs.dense, progress)
    ratios = sorted({count / move.parts for move in moves for count in range(1, move.parts + 1)})
    low, high = 0, len(ratios)  # the largest ratio within the budget
    while low < high:
        middle = (low + high) // 2
        if costs.of(~kept.removed(ratios[middle], down=True)) <= allowed:
            low = middle + 1
        else:
            high = middle
    if low == 0:
        least = costs.of(~kept.removed(ratios[0], down=True))
        lowest = f"at least {least:,} of {costs.dense:,} remain"
        raise budgets.UnmetError(
            "The budget cannot be met by a model of the same class. "
            f"Received: target={target!r} ({target}), of which {lowest}. What its config can "
            f"divide: {'; '.join(map(str, moves))}. Nothing was changed. Allow more, or prune with "
            "another selection.",
            lowest,
        )
    return kept.removed(ratios[low - 1], down=True)


class _Kept:
    """How many units of each set are kept, and which, for a ratio."""

    def __init__(self, units, moves, selection, groups):
        self.units, self.moves, self.selection, self.groups = units, moves, selection, groups
        least = limits.least_kept(units, selection.max_fraction)
        self.least = {id(each): n for each, n in zip(units.sets, least, strict=True)}
        self.sets, self._counts = units.coupling.sets, {}

    def removed(self, ratio, down=False):
        """The units that go where each number keeps about `ratio` of what it is.

        Args:
            ratio: Float from 0 to 1.
            down: Whether no number keeps more than that, where it can.
        """
        counts = {}
        for move in self.moves:
            counts |= self._allowed(move, ratio, down)
        groups = self.groups
        removed = groups.removed.copy()
        for place, kept in counts.items():
            removed |= _lowest(groups, self.sets[place], kept)
        dead = self.units.pruned() | removed[groups.group_of_unit]
        dead[self.units.coupling.roots[0]] = False
        must_stay = removed & ~groups.removable & ~groups.removed
        for place, kept in counts.items():
            stays = ~dead[self.sets[place].units]
            if must_stay.any() or stays.sum() != kept:
                self._refuse(self.sets[place], kept, stays.sum())
        return dead

    def _allowed(self, move, ratio, down):
        """How many units of each set of a move are kept: the nearest to a ratio that may be."""
        wanted = math.floor(ratio * move.parts + 1e-9) if down else round(ratio * move.parts)
        for parts in range(max(1, wanted), move.parts):
            if (move, parts) not in self._counts:
                self._counts[move, parts] = move.counts(parts)
            counts = self._counts[move, parts]
            if counts is not None and all(map(self._is_allowed, counts, counts.values())):
                return counts
        return {}

    def _is_allowed(self, place, kept):
        is_multiple = kept % (self.selection.round_to or 1) == 0
        return is_multiple and kept >= self.least[id(self.sets[place])]

    def _refuse(self, unit_set, wanted, found):
        raise ValueError(
            "Units that are pruned already, frozen or pinned leave no choice in which all blocks "
            f"keep equally many. Received: layers={unit_set.name!r}, of {len(unit_set.units)} "
            f"units {wanted} are to stay, and {found} would. Prune with one selection from the "
            "dense model on, or leave the layer out with `exclude`."
        )


def _moves(units):
    """The moves among whose units all may be pruned; kept for the next time."""
    known = _moves_of.setdefault(units.model, {})
    key = tuple(unit_set.name for unit_set in units.sets)
    if key not in known:
        known[key] = _found_moves(units)
    return known[key]


def _found_moves(units):
    numbers = ConfigNumbers(units.model)
    counted = _Counted(units.coupling, units.model)
    places = [p for p in numbers.before if not counted.axes.isdisjoint(numbers.moved(p))]
    subsets = itertools.chain.from_iterable(
        itertools.combinations(places, count) for count in range(1, len(places) + 1)
    )
    found = {}
    for subset in itertools.islice(subsets, MOST_TRIED):
        parts = math.gcd(*(numbers.before[place] for place in subset))
        may_be = _no_axis_is_moved_by_one(subset, numbers, counted)
        if parts > 1 and may_be and not _is_union(frozenset(subset), found):
            move = Move(subset, parts, numbers, counted)
            counts = move.counts(parts - 1)
            if counts is not None:
                found[frozenset(subset)] = move, frozenset(counts)
    selected = {id(unit_set) for unit_set in units.sets}
    stays = {i: s.name for i, s in enumerate(units.coupling.sets) if id(s) not in selected}
    others = []
    for subset, (move, sets) in list(found.items()):
        held = [name for place, name in stays.items() if place in sets]
        if held:
            others.append(f"{move}, as units of {held} are not selected or stay")
            del found[subset]
    moves = _disjoint(found)
    if moves and _failure(units, moves) is not None:
        for subset, (move, _) in list(found.items()):
            failure = _failure(units, [move]) if move in moves else None
            if failure is not None:
                others.append(f"{move}, as the class computes something else then: {failure}")
                del found[subset]
        moves = _disjoint(found)
    if not moves:
        raise ValueError(
            "No numbers in the config of the model can become smaller so that only units go that "
            f"may be pruned. Received: model={units.model.name!r} ({type(units.model).__name__}), "
            f"numbers={[name_of(place) for place in places]}. "
            + "".join(f"Not {each}. " for each in others)
            + "Prune with another selection, and strip without `same_class=True`."
        )
    return moves


def _disjoint(found):
    """Moves that have no number in common: those first that change the fewest sets of units."""
    moves, used = [], set()
    for subset, (move, _) in sorted(found.items(), key=lambda each: len(each[1][1])):
        if used.isdisjoint(subset):
            used |= subset
            moves.append(move)
    return tuple(moves)


def _failure(units, moves):
    """Why the class does not compute the same with half of what some moves divide, or None.

    As where it multiplies by the root of its width.
    """
    masked = copy_model(units.model).model
    trial = PrunableUnits(masked)
    groups = removal_groups(trial)
    removed = groups.removed.copy()
    for move in moves:
        for place, count in (move.counts(max(1, move.parts // 2)) or {}).items():
            removed |= _lowest(groups, trial.coupling.sets[place], count)
    trial.mask(removed[groups.group_of_unit])
    try:
        strip(masked, same_class=True)
    except (ValueError, RuntimeError) as error:
        return str(error).split(". ")[0]
    return None


def _lowest(groups, unit_set, kept):
    """Which groups go so that a set keeps so many units, as a boolean array over groups."""
    inside = np.unique(groups.group_of_unit[unit_set.units])
    size = len(unit_set.units) // len(inside)
    removed = np.zeros(len(groups.removed), bool)
    removed[inside[: len(inside) - kept // size]] = True
    return removed


def _no_axis_is_moved_by_one(subset, numbers, counted):
    """Whether each axis without units that a number moves is moved by another one too."""
    if not numbers.taken_together.isdisjoint(subset):
        return True  # which axes it moves is not known
    moved = Counter(axis for place in subset for axis in numbers.moved(place))
    return all(count > 1 for axis, count in moved.items() if axis not in counted.axes)


def _is_union(subset, found):
    """Whether numbers are such as can become smaller in parts that have nothing in common."""
    return any(other < subset and subset - other in found for other in found)


class _Counted:
    """Works out from the shapes of weights how many units of each set are kept.

    The size of an axis is the sum over sets of the units that are kept times the positions that
    each has along it, and the fixed positions: a system of linear equations.
    """

    def __init__(self, coupling, model):
        sets = {i: each.units for i, each in enumerate(coupling.sets) if each.removable}
        self.sizes = {place: len(units) for place, units in sets.items()}
        of_unit = np.full(coupling.size, len(sets))
        for column, units in enumerate(sets.values()):
            of_unit[units] = column
        order = {id(weight): index for index, weight in enumerate(weights_in_order(model))}
        self.shapes = [tuple(weight.shape) for weight in weights_in_order(model)]
        positions = {}
        for piece in coupling.slices:
            key = order[id(piece.variable)], piece.axis
            across = (
                piece.labels.size / piece.labels.shape[piece.axis if piece.labels.ndim > 1 else 0]
            )
            count = np.bincount(
                of_unit[coupling.roots[piece.labels]].ravel(), minlength=len(sets) + 1
            )
            positions[key] = positions.get(key, 0) + count / across
        self.axes = {key for key, count in positions.items() if count[:-1].any()}
        self.positions = {key: positions[key] for key in self.axes}

    def kept(self, shapes):
        """How many units are kept of those sets that lose some.

        Args:
            shapes: Those of all weights.

        Returns:
            A dict from the place of each set to the number; None if no units that go make these
            shapes.
        """
        if [*map(len, shapes)] != [*map(len, self.shapes)]:
            return None
        before = np.array([*self.sizes.values()], float)
        rows, lost = [], []
        for index, (old, new) in enumerate(zip(self.shapes, shapes, strict=True)):
            for axis, (a, b) in enumerate(zip(old, new, strict=True)):
                if (index, axis) in self.axes:
                    rows.append(self.positions[index, axis][:-1] / before)
                    lost.append(a - b)
                elif a != b:
                    return None
        rows, lost = np.array(rows), np.array(lost, float)
        found, _, rank, _ = np.linalg.lstsq(rows, lost)
        units_lost = np.round(found)
        is_right = np.allclose(rows @ units_lost, lost) and rank == len(before)
        if not is_right or (units_lost < 0).any() or (units_lost >= before).any():
            return None
        places = zip(self.sizes, before, units_lost, strict=True)
        return {place: int(n - gone) for place, n, gone in places if gone} or None
