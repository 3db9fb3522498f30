"""The targets of pruning in rounds: a little at a time, each round the same share of what is left.

After each round the layers are fitted to the dense model, and units are measured anew.
"""

from tfprune.units.budgets import Budget, Latency

ROUNDS = 4
"""How many rounds there are."""

_LEFT = 0.25
"""What is taken to remain under a budget that is a number and no share: that is found later."""


def targets_of_rounds(target, selection):
    """Returns the target of each round, with how far it is on the way to a budget.

    Args:
        target: Float, the fraction of units to prune, or a budget of `tfprune.budgets`.
        selection: `Selection`.

    Returns:
        A list of pairs of a target and a progress from 0 to 1, as for `prune_by`. A single one
        where rounds make no sense: under a latency, which is measured, and where all blocks are to
        keep equally many units of the model that is given.

    Example:

    >>> from tfprune.units.selection.selection import get
    >>> [round(target, 3) for target, _ in targets_of_rounds(0.9375, get("global"))]
    [0.5, 0.75, 0.875, 0.938]
    """
    if isinstance(target, Latency) or selection.scope == "same_class":
        return [(target, 1.0)]
    steps = [step / ROUNDS for step in range(1, ROUNDS)]
    if not isinstance(target, Budget):
        return [*((1 - (1 - target) ** step, 1.0) for step in steps), (target, 1.0)]
    left = target.remaining if isinstance(target.remaining, float) else _LEFT
    removed = 1 - min(max(left, 1e-3), 1 - 1e-3)
    return [*((target, (1 - (1 - removed) ** step) / removed) for step in steps), (target, 1.0)]
