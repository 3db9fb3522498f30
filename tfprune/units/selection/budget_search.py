"""The units that go under a budget, and what is said where none meets it."""

import contextlib

import numpy as np

from tfprune.units.budgets import Budget, Latency, MACs
from tfprune.units.selection import limits
from tfprune.units.selection.costs import costs_for
from tfprune.units.selection.exact import check_size, meet_exactly
from tfprune.units.selection.latency_search import Clock, meet_in_time
from tfprune.units.selection.ranking import UnreachableError, cheapest, check_reachable, meet
from tfprune.units.selection.removal_groups import bundled
from tfprune.units.selection.removal_steps import steps_of


def check_target(units, target, choice):
    """Raises a `ValueError` if a budget cannot be reached or the best choice not be worked out.

    A latency is not measured.

    Args:
        units: `PrunableUnits`.
        target: A budget of `tfprune.budgets`, or anything else, of which nothing is said.
        choice: `Selection`.
    """
    choice.check_budget(target)
    least = limits.least_kept(units, choice.max_fraction)
    if isinstance(target, Budget) and not isinstance(target, Latency):
        bundles, costs = bundled(units, np.zeros(units.coupling.size)), costs_for(target, units)
        steps = steps_of(units, bundles, least, choice.round_to)
        with _explained(units, target, choice, costs.dense):
            check_reachable(steps, costs, target.allowed(costs.dense))
        if choice.scope == "exact":
            check_size(steps, costs, units.coupling)


def within_budget(units, budget, scoring, choice, progress=1.0):
    """The units to prune, so that no more remains than a budget says.

    Args:
        units: `PrunableUnits`.
        budget: A budget of `tfprune.budgets`.
        scoring: `UnitScores`. It is asked only where units must go.
        choice: `Selection`.
        progress: Float from 0 to 1, how far the budget is on the way from the dense model's cost.

    Returns:
        A boolean array over all units of the coupling.

    Raises:
        ValueError: If the budget cannot be met.
    """
    choice.check_budget(budget)
    least = limits.least_kept(units, choice.max_fraction)
    if isinstance(budget, Latency):
        clock = Clock(units, budget)
        return _in_time(units, budget, scoring, choice, least, clock, progress)
    costs = costs_for(budget, units)
    allowed = budget.allowed(costs.dense, progress)
    bundles = bundled(units, np.zeros(units.coupling.size))
    if costs.of(bundles.kept) <= allowed:
        return units.pruned()
    bundles = bundled(units, scoring.of(units))
    steps = steps_of(units, bundles, least, choice.round_to)
    with _explained(units, budget, choice, costs.dense):
        if choice.scope == "exact":
            fewest = costs.of(steps.kept(np.ones(len(steps), bool)))
            steps = steps_of(units, bundles, least, choice.round_to, protect=False)
            gone = meet_exactly(steps, costs, allowed, units.coupling, fewest)
        else:
            gone = meet(steps, costs, allowed, choice.scope)
    return units.pruned() | _lost(steps, gone)


def _in_time(units, budget, scoring, choice, least, clock, progress):
    if progress == 0:
        return units.pruned()
    steps = steps_of(units, bundled(units, scoring.of(units)), least, choice.round_to)
    order = None
    if choice.scope == "greedy":
        costs = costs_for(MACs(1.0, budget.input_shapes), units)
        order = cheapest(steps, costs, costs.of(steps.kept(np.ones(len(steps), bool))))
    with _explained(units, budget, choice, None):
        gone = meet_in_time(steps, clock, budget, choice.scope, progress, order)
    return units.pruned() | _lost(steps, gone)


def _lost(steps, gone):
    """The units that go with steps."""
    return steps.bundles.kept & ~steps.kept(gone)


@contextlib.contextmanager
def _explained(units, budget, choice, dense):
    """Says of an unreachable budget what can be reached, and how."""
    try:
        yield
    except UnreachableError as error:
        if dense is None:
            least = f"{1000 * error.least:.3g} ms were measured with the fewest units"
        else:
            share = f"{100 * error.least / dense:.3g} % of the dense model's {dense:,}"
            least = f"the least that can remain is {error.least:,} {budget.what}, {share}"
        raise ValueError(
            f"{error} Received: {budget!r} ({budget}), of which {least}, with "
            f"min_units={units.min_units}, max_fraction={choice.max_fraction!r}, "
            f"round_to={choice.round_to}, among the layers "
            f"{[unit_set.name for unit_set in units.sets]}. Nothing was changed. Allow more, "
            "lower `min_units` or `round_to`, raise `max_fraction`, or let more layers lose units "
            "with `only` and `exclude`."
        ) from None
