"""Selects the units to prune: the lowest scores, as many as the target asks for."""

import numpy as np

from tfprune.coupling.groups import connected_sets, equal_count_constraints, select_equal_counts
from tfprune.patterns import pruned_count
from tfprune.units import budgets
from tfprune.units.accuracy import check_target
from tfprune.units.prunable import indices_in
from tfprune.units.selection import limits
from tfprune.units.selection.budget_search import select_within_budget
from tfprune.units.selection.fractions import select_nearest_multiples
from tfprune.units.selection.same_class import select_same_class
from tfprune.units.selection.selection import Selection

_UNIFORM = Selection()


def select_units(units, target, scoring, selection=_UNIFORM, progress=1.0):
    """The units to prune.

    Args:
        units: `PrunableUnits`.
        target: Float from 0 to 1, the fraction to prune: of each set, or with other scopes than
            "uniform" of all units; or a budget of `tfprune.budgets`.
        scoring: `UnitScores`. Only the sets that must lose units are scored.
        selection: `Selection`.
        progress: Float from 0, for the cost of the dense model, to 1, for the budget.

    Returns:
        A boolean array over all units of the coupling.

    Raises:
        ValueError: If the target is out of range, too many units must stay, or the budget cannot
            be met.
    """
    check_target(target)
    selection.check_budget(target)
    if selection.scope == "same_class":
        return select_same_class(units, target, scoring, selection, progress)
    if isinstance(target, budgets.Budget):
        return select_within_budget(units, target, scoring, selection, progress)
    if selection.rounds and selection.scope in ("uniform", "global"):
        return select_nearest_multiples(units, target, scoring, selection)
    if selection.scope == "uniform":
        return _select_uniform(
            units, target, scoring, limits.least_kept(units, selection.max_fraction)
        )
    total = sum(len(unit_set.units) for unit_set in units.sets)
    left = max(1, total - pruned_count(target, total))
    return select_within_budget(units, budgets.Units(left), scoring, selection)


def _select_uniform(units, target, scoring, min_kept):
    """The same fraction of each set."""
    pruned, frozen = units.pruned(), units.frozen()
    removed = pruned.copy()
    fewest = {id(unit_set): count for unit_set, count in zip(units.sets, min_kept, strict=True)}
    waiting = []
    for sets, sides in connected_sets(units.sets, equal_count_constraints(units.coupling, pruned)):
        counts = [_count(s, target, fewest[id(s)]) * _group_count(s) for s in sets]
        before = [pruned[s.units].sum() for s in sets]
        if all(count <= already for count, already in zip(counts, before, strict=True)):
            continue
        waiting.append((sets, sides, counts, before))
    scored = [unit_set for sets, *_ in waiting for unit_set in sets]
    all_scores = scoring.of(units, scored) if scored else None
    scores, held = np.where(pruned, -np.inf, np.inf), pruned | frozen
    for unit_set in scored:
        is_pinned = np.array([reason is not None for reason in unit_set.pinned])
        may_go = unit_set.units[~held[unit_set.units] & ~is_pinned]
        scores[may_go] = all_scores[may_go]
    for sets, sides, counts, before in waiting:
        if len(sets) > 1 or len(sides) > 1 or (sides and sets[0].groups is None):
            removed[_lowest_evenly(sets, sides, scores, np.maximum(counts, before))] = True
        else:
            count = _count(sets[0], target, fewest[id(sets[0])])
            removed[_lowest(sets[0], scores[sets[0].units], count)] = True
    return removed


def _count(unit_set, target, fewest):
    """How many units of each group of a set go."""
    size, groups = len(unit_set.units), _group_count(unit_set)
    return min(pruned_count(target, size // groups), (size - fewest) // groups)


def _lowest_evenly(sets, sides, scores, counts):
    """The units to prune of sets that must lose equally many in each group."""
    units = np.unique(np.concatenate([*(s.units for s in sets), *(s.ravel() for s in sides)]))
    caps = [(np.isin(units, s.units), count) for s, count in zip(sets, counts, strict=True)]
    rows = [indices_in(side.ravel(), units).reshape(side.shape) for side in sides]
    selected = select_equal_counts(scores[units], caps, rows)
    if selected is None:  # where one set has lost more already, those tied to it must follow
        most = max(count / len(s.units) for s, count in zip(sets, counts, strict=True))
        caps = [(members, most * members.sum()) for members, _ in caps]
        selected = select_equal_counts(scores[units], caps, rows)
    if selected is None:
        raise ValueError(
            "Units that are pruned already, frozen, pinned or excluded leave no choice in which "
            "all groups lose equally many. "
            f"Received: layers={[s.name for s in sets]}, units to prune={list(map(int, counts))}. "
            "Leave these layers out with `exclude`, or take their masks off with "
            "`tfprune.set_masks(model, layer, weight, trainable=True)`."
        )
    return units[selected]


def _group_count(unit_set):
    return 1 if unit_set.groups is None else len(unit_set.groups)


def _lowest(unit_set, scores, count):
    """The `count` units with the lowest scores in each group of a set."""
    lowest = []
    for group in unit_set.units[None] if unit_set.groups is None else unit_set.groups:
        values = scores[indices_in(group, unit_set.units)]
        worst = np.argsort(values, kind="stable")[: max(count, 0)]
        if np.isposinf(values[worst]).any():
            raise ValueError(
                "Too many units must stay, because they are frozen or pinned, to prune as many as "
                f"asked for. Received: layers={unit_set.name!r}, units to prune={count}, of "
                f"{len(group)} units {int(np.isposinf(values).sum())} must stay. Prune fewer, or "
                "leave the layer out with `exclude`."
            )
        lowest.extend(group[worst].tolist())
    return lowest
