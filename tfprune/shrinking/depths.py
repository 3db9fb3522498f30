"""Pruning of depth and width under one budget: the best of models of several depths."""

from dataclasses import dataclass

import keras

from tfprune.blocks.budget_search import shallower
from tfprune.masks.layer_filter import CounterpartsByName
from tfprune.shrinking.judging import Decision, is_lower
from tfprune.shrinking.one_shot import Pruned
from tfprune.units import budgets

_BUDGETS = (budgets.Parameters, budgets.MACs, budgets.Bytes, budgets.Latency)


@dataclass(frozen=True, eq=False)
class AtDepth:
    """A model pruned to a budget by some blocks and by units.

    Attributes:
        dense: The model without these blocks, before units of it were pruned.
        blocks: The names of the blocks.
        pruned: The `Pruned` model.
        decision: A `Decision`, which says what was found at each depth.
    """

    dense: keras.Model
    blocks: tuple
    pruned: Pruned
    decision: Decision


def check(selection, target, data):
    """Raises a `ValueError` unless blocks can be removed for a target, with the data there is."""
    if not isinstance(target, _BUDGETS):
        raise ValueError(
            "A selection with `blocks=True` needs a budget that blocks and units share: "
            "`Parameters`, `MACs`, `Bytes` or `Latency`. "
            f"Received: target={target!r}, selection={selection!r}."
        )
    if data is None:
        raise ValueError(
            "Which blocks go, and how many, is measured on data. Received: data=None, "
            f"selection={selection!r}. Pass `data=(x,)`, `(x, y)` or a dataset."
        )


def at_best_depth(model, prune, judge, target, selection, data, **filters):
    """The best of a model without none, one, two, ... blocks, each with units pruned to a budget.

    The blocks of least influence go first. It ends with the second model in a row that is no better
    than the best before it, or with the one that meets the budget without fewer units.

    Args:
        model: The model, with which fractions are compared.
        prune: Function from a model, and `target`, `selection`, `only` and `exclude` for it, to a
            `Pruned` model.
        judge: A `Judge`.
        target, selection, data: Those of `tfprune.prune`.
        **filters: `only`, `exclude` and `verbose` of `tfprune.prune`.

    Returns:
        An `AtDepth`.

    Raises:
        ValueError: If there are no blocks, or the budget cannot be met at any depth.
    """
    same_class, verbose = selection.scope == "same_class", filters.pop("verbose")
    depths = shallower(model, target, data, same_class=same_class, verbose=verbose, **filters)
    best, found, failure, worse = None, [], None, 0
    for dense, removed, budget in depths:
        gone = [layer for block in removed for layer in block.layers]
        of_small = CounterpartsByName(model, dense, gone)
        by_layer = of_small.by_layer(selection.max_fraction)
        try:
            pruned = prune(
                dense,
                target=budget,
                selection=selection.with_changes(blocks=False, max_fraction=by_layer),
                **{name: of_small.filter(given) for name, given in filters.items()},
            )
        except ValueError as error:
            failure = failure or error  # as where units alone cannot meet it
            continue
        value = judge.value(pruned.metrics)
        found.append(f"{value:.4g} without {len(removed)}")
        if best is None or is_lower(value, judge.value(best[2].metrics)):
            best, worse = (dense, tuple(block.name for block in removed), pruned), 0
        else:
            worse += 1
        if worse == 2:
            break
    if best is None:
        raise failure
    reason = f"{judge.what} by number of blocks: {', '.join(found)}"
    names = ", ".join(map(repr, best[1])) or "no block"
    return AtDepth(*best, Decision(f"depth, {names} removed", bool(best[1]), reason))
