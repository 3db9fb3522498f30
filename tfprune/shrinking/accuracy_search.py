"""Search for the smallest model within a tolerated drop of a metric: bisection over budgets."""

import dataclasses
import math
import time

from tfprune._tools import progress
from tfprune.shrinking.evaluation import Drop, Evaluation
from tfprune.shrinking.prune_report import Try
from tfprune.units.budget_kinds import Units, UnmetError, with_share
from tfprune.units.model_costs import cost_change


def smallest_within(prepared, target):
    """The smallest model that was found within a tolerated drop.

    Half of the cost is tried first, then the middle between the largest share that does not hold
    the drop and the smallest that does, until they are near enough to each other. The model given
    counts as holding it, and a budget that cannot be met as not.

    Args:
        prepared: `Prepared`.
        target: `tfprune.budgets.Accuracy`.

    Returns:
        The model and its `PruneReport`, in which `budget` and `tries` are set.

    Raises:
        ValueError: If no budget that was tried holds the drop, or the metric cannot be evaluated.
    """
    prepared.check(with_share(target.cost, 0.5))
    evaluate = Evaluation(target.metric, target.larger_is_better, prepared.model, prepared.judge)
    start = time.perf_counter()
    dense, *_ = evaluate.of_dense(prepared.denses)
    drop = Drop(dense, target.drop, target.relative, target.larger_is_better)
    most = math.ceil(-math.log2(target.tolerance))
    fails, holds, tries, best = 0.0, 1.0, [], None
    with progress.stage("Try budgets", most, verbose=prepared.verbose) as bar:
        while holds - fails > target.tolerance and len(tries) < most:
            share = (fails + holds) / 2
            found, model_and_report = _tried(prepared, target.cost, share, evaluate, drop)
            tries.append(found)
            bar.add(1)
            if not found.holds:
                fails = share
                continue
            holds = min(share, found.ratio)
            if best is None or found.ratio <= best[0].ratio:
                best = found, *model_and_report
    in_words = f"{target}: {evaluate.name} {_bound(drop)}, of {dense:.6g}"
    if best is None:
        raise ValueError(_not_found(target, evaluate, drop, tries))
    found, small, report = best
    return small, dataclasses.replace(
        report,
        target=in_words,
        budget=found.budget,
        tries=tuple(tries),
        seconds=time.perf_counter() - start,
    )


def _tried(prepared, cost, share, evaluate, drop):
    """The `Try` of a share of a cost, with the model and the report; None where it is not met."""
    budget, start = with_share(cost, share), time.perf_counter()
    try:
        small, report = prepared.to(budget)
    except UnmetError:
        return Try(budget, None, None, False, time.perf_counter() - start), None
    is_units = isinstance(budget, Units)
    change = report.units if is_units else cost_change(prepared.model, small, budget)
    value, _ = evaluate(small)
    seconds = time.perf_counter() - start
    return Try(budget, change.ratio, value, drop.holds(value), seconds), (small, report)


def _bound(drop):
    return f"at {'least' if drop.larger_is_better else 'most'} {drop.limit:.6g}"


def _not_found(target, evaluate, drop, tries):
    met = [each for each in tries if each.value is not None]
    best = "no budget can be met"
    if met:
        found = met[evaluate.best([each.value for each in met])]
        best = f"the best that was found is {found.value:.6g} with {found.budget}"
    return (
        f"No budget holds the drop. Received: target={target!r}, which allows {evaluate.name} "
        f"{_bound(drop)}, where the model given has {drop.dense:.6g}; {best}, of {len(tries)} "
        "budgets that were tried. Nothing was changed. Allow a larger drop, let the small model be "
        'trained (`epochs`), search longer (`effort="best"`), or evaluate on more examples '
        "(`validation_data`)."
    )
