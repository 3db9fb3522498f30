"""The units to remove under a budget, and the error where no selection meets it."""

import contextlib

import numpy as np

from tfprune.measuring import latency_table
from tfprune.measuring.replicas import replicas_of
from tfprune.measuring.runtimes import check_installed
from tfprune.units.budgets import Budget, Latency, MACs, UnmetError
from tfprune.units.selection import limits
from tfprune.units.selection.costs import costs_for
from tfprune.units.selection.exact import check_size, optimal_steps
from tfprune.units.selection.latency_costs import CostsOfLatency
from tfprune.units.selection.latency_search import LatencyTimer, steps_within_latency
from tfprune.units.selection.latency_table_search import table_timer, units_by_table
from tfprune.units.selection.paying_widths import multiples_that_pay
from tfprune.units.selection.ranking import (
    UnreachableError,
    check_reachable,
    greedy_order,
    lowest_cost,
    steps_within_budget,
)
from tfprune.units.selection.removal_groups import removal_groups
from tfprune.units.selection.removal_steps import removal_steps


def check_target(units, target, selection):
    """Raises a `ValueError` if a budget cannot be met, or the model is too large for "exact".

    A latency is not measured, but its runtime must be installed.

    Args:
        units: `PrunableUnits`.
        target: A budget of `tfprune.budgets`; anything else is not checked.
        selection: `Selection`.
    """
    selection.check_budget(target)
    min_kept = limits.least_kept(units, selection.max_fraction)
    if isinstance(target, Latency):
        check_installed(target.runtime)
    if isinstance(target, Budget) and not isinstance(target, Latency):
        costs, groups = costs_for(target, units), removal_groups(units)
        steps = removal_steps(units, groups, min_kept, selection.round_to)
        with _explain_unreachable(units, target, selection, costs.dense):
            check_reachable(steps, costs, target.allowed(costs.dense))
        if selection.scope == "exact":
            check_size(steps, costs, units.coupling)


def select_within_budget(units, budget, scoring, selection, progress=1.0):
    """The units to prune so that no more remains than a budget allows.

    Args:
        units: `PrunableUnits`.
        budget: A budget of `tfprune.budgets`.
        scoring: `UnitScores`. Scores are computed only where units must go.
        selection: `Selection`.
        progress: Float from 0, for the cost of the dense model, to 1, for the budget.

    Returns:
        A boolean array over all units of the coupling.

    Raises:
        ValueError: If the budget cannot be met.
    """
    selection.check_budget(budget)
    min_kept = limits.least_kept(units, selection.max_fraction)
    if isinstance(budget, Latency):
        if not budget.table:
            replicas_of(units.model).check_can_time()
        return _select_within_latency(units, budget, scoring, selection, min_kept, progress)
    costs = costs_for(budget, units)
    allowed = budget.allowed(costs.dense, progress)
    if costs.of(removal_groups(units).kept) <= allowed:
        return units.pruned()
    groups = removal_groups(units, scoring.of(units))
    steps = removal_steps(units, groups, min_kept, selection.round_to)
    with _explain_unreachable(units, budget, selection, costs.dense):
        if selection.scope == "exact":
            lowest = lowest_cost(steps, costs)
            steps = removal_steps(units, groups, min_kept, selection.round_to, protect=False)
            removed = optimal_steps(steps, costs, allowed, units.coupling, lowest)
        else:
            removed = steps_within_budget(steps, costs, allowed, selection.scope)
    return units.pruned() | steps.units_removed(removed)


def _select_within_latency(units, budget, scoring, selection, min_kept, progress):
    if progress == 0:
        return units.pruned()
    groups = removal_groups(units, scoring.of(units))
    if budget.has_table and (
        selection.scope in ("greedy", "exact") or selection.round_to == "auto" or budget.table
    ):
        return _select_by_table(units, budget, groups, selection, min_kept, progress)
    steps = removal_steps(units, groups, min_kept, selection.round_to)
    order = None
    if selection.scope == "greedy":
        costs = costs_for(MACs(1.0, budget.input_shapes), units)
        order = greedy_order(steps, costs, lowest_cost(steps, costs))
    with _explain_unreachable(units, budget, selection, None):
        timer = LatencyTimer(units, budget)
        removed = steps_within_latency(steps, timer, budget, selection.scope, progress, order)
    return units.pruned() | steps.units_removed(removed)


def _select_by_table(units, budget, groups, selection, min_kept, progress):
    if budget.table is None:
        table = latency_table.of_this_machine(budget.runtime, budget.threads, budget.quantize)
    else:
        table = latency_table.read(budget.table)
    costs = CostsOfLatency(units, groups, table, budget.batch_size, budget.input_shapes)
    round_to = selection.round_to
    if round_to == "auto":
        round_to = multiples_that_pay(units, groups, costs)
    steps = removal_steps(units, groups, min_kept, round_to)
    whole = removal_steps(units, groups, min_kept, round_to, protect=False)

    def select(allowed):
        if selection.scope != "exact":
            return steps.kept(steps_within_budget(steps, costs, allowed, selection.scope))
        lowest = lowest_cost(steps, costs)
        return whole.kept(optimal_steps(whole, costs, allowed, units.coupling, lowest))

    timer = table_timer(costs) if budget.table else LatencyTimer(units, budget)
    fewest = steps.kept(np.ones(len(steps), bool))
    with _explain_unreachable(units, budget, selection, None):
        return ~units_by_table(select, groups.kept, fewest, costs, timer, budget, progress)


@contextlib.contextmanager
def _explain_unreachable(units, budget, selection, dense):
    """Turns an `UnreachableError` into an `UnmetError` that says what can be reached, and how."""
    try:
        yield
    except UnreachableError as error:
        if dense is None:
            lowest = f"{1000 * error.lowest:.3g} ms were measured with the fewest units"
        else:
            share = f"{100 * error.lowest / dense:.3g} % of the dense model's {dense:,}"
            lowest = f"the least that can remain is {error.lowest:,} {budget.what}, {share}"
        raise UnmetError(
            f"{error} Received: {budget!r} ({budget}), of which {lowest}, with "
            f"min_units={units.min_units}, max_fraction={selection.max_fraction!r}, "
            f"round_to={selection.round_to}, among the layers "
            f"{[unit_set.name for unit_set in units.sets]}. Nothing was changed. Allow more, "
            "lower `min_units` or `round_to`, raise `max_fraction`, or let more layers lose units "
            "with `only` and `exclude`.",
            lowest,
        ) from None
