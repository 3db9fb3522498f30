"""Masks for units in one step."""

from tfprune.units.prunable import PrunableUnits
from tfprune.units.scores import UnitScores
from tfprune.units.selection.select_units import select_units
from tfprune.units.selection.selection import Selection


def prune_units(
    model,
    target,
    criterion="magnitude",
    *,
    aggregate="sum",
    normalize=None,
    only=None,
    exclude=None,
    scope="uniform",
    round_to=None,
    min_units=1,
    max_fraction=1.0,
    seed=None,
    data=None,
    batch_size=None,
    verbose=0,
):
    """Prunes units now: those with the lowest scores, a fraction or as many as a budget asks for.

    A unit is masked as a whole: its column in the kernel of the layer that makes it, its bias, its
    entries in norms, and its rows in the layers that use it. What is pruned already stays so and
    counts. Units of which a weight is frozen, and those of layers with `trainable=False`, stay.
    All masks are computed before the first is set, so an error leaves the model as it was.

    A budget says what may remain, and is met from below: `tfprune.strip` gives a model with no more
    than that. Of the units that go now none could stay without exceeding it, save where groups must
    stay equal or `round_to` asks for multiples: there none of the groups or multiples could.

    Scopes:

    - "uniform": of each layer the same fraction; under a budget, to within one unit of each
      layer, and then as many more units as there is room for.
    - "global": one ranking of the units of all layers by their scores.
    - "greedy": least importance for what they save, worked out anew as units go.
    - "exact": the kept units have the greatest sum of scores that the budget allows; for small
      models. Under "greedy" and "exact" scores below 0 count from the lowest up, and a fraction
      is taken as a budget of units.

    Args:
        model: A model of drop-in layers, see `tfprune.prunable`.
        target: Float from 0 to 1, the fraction of units to prune, of each layer or, with another
            scope than "uniform", of all together; or a budget of `tfprune.budgets`.
        criterion: "magnitude", "l1", "l2", "random", "bn_scale", "fpgm", "taylor",
            "taylor_activation", "second_order", "apoz", "activation_variance", or a callable; see
            `tfprune.criteria.units`.
        aggregate: "sum", "mean" or "max" of the scores of all layers that a unit has slices in.
        normalize: What the scores of each set of coupled units are divided by: their "mean", "max",
            "sum" or length "l2"; `None` leaves them as they are. See `UnitScores`.
        only: A sequence of layers or layer names whose units may go, a nested model for all in it,
            or a predicate `layer -> bool`; by default all that can.
        exclude: What stays, of what `only` says, given in the same way. Units that are coupled
            with those of an excluded layer stay too.
        scope: "uniform", "global", "greedy" or "exact".
        round_to: Integer. Each layer that loses units keeps a multiple of it: the nearest, of two
            as near the larger, and all units where the nearest is more than it has. Under a budget
            multiples go by the same ranking until it is met, never above it.
        min_units: Integer, how many units each layer keeps at least.
        max_fraction: Float from 0 to 1, the most that may be pruned of a layer; or a dict from a
            layer, its name, a nested model or a predicate `layer -> bool` to such a float, in
            which later keys win and layers that none names may lose all.
        seed: Integer, for criteria which draw; the same seed gives the same masks.
        data: `(x, y)` or a dataset, for criteria that are measured on data.
        batch_size: Integer, for data in arrays.
        verbose: 0 is quiet, 1 shows the progress through the data.

    Returns:
        A tuple of `UnitCount`, one for each set of coupled units.

    Raises:
        ValueError: If no units can be pruned, an argument is out of its range, scores are not
            finite, data or a loss is missing, or a budget cannot be met (the error says what can).
            Nothing is changed then.

    Example:

    >>> import keras
    >>> import tfprune
    >>> model = keras.Sequential([
    ...     keras.Input((4,)),
    ...     tfprune.layers.Dense(8, activation="relu", name="hidden"),
    ...     tfprune.layers.Dense(2)])
    >>> prune_units(model, 0.5)
    (UnitCount(name='hidden', units=8, pruned=4),)
    >>> tfprune.strip(model).get_layer("hidden").units
    4
    >>> prune_units(model, tfprune.budgets.Parameters(22))
    (UnitCount(name='hidden', units=8, pruned=6),)
    >>> tfprune.strip(model).count_params()
    16
    """
    choice = Selection(scope, round_to, max_fraction)
    scoring = UnitScores(
        criterion,
        aggregate=aggregate,
        normalize=normalize,
        seed=seed,
        data=data,
        batch_size=batch_size,
        verbose=verbose,
    )
    units = PrunableUnits(model, only=only, exclude=exclude, min_units=min_units)
    units.mask(select_units(units, target, scoring, choice))
    return units.counts()
