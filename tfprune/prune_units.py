"""Masks for units in one step."""

from tfprune.prunable_units import PrunableUnits
from tfprune.unit_choice import choose_units
from tfprune.unit_scores import UnitScores


def prune_units(
    model,
    target,
    criterion="magnitude",
    *,
    aggregate="sum",
    normalize=None,
    only=None,
    exclude=None,
    min_units=1,
    seed=None,
    data=None,
    batch_size=None,
    verbose=0,
):
    """Prunes units now: in each layer the fraction with the lowest scores.

    A unit is masked as a whole: its column in the kernel of the layer that makes it, its bias, its
    entries in norms, and its rows in the layers that use it. What is pruned already stays so and
    counts. Units of which a weight is frozen, and those of layers with `trainable=False`, stay.
    All masks are computed before the first is set, so an error leaves the model as it was.

    Args:
        model: A model of drop-in layers, see `tfprune.prunable`.
        target: Float from 0 to 1, the fraction of the units of each layer to prune.
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
        min_units: Integer, how many units each layer keeps at least.
        seed: Integer, for criteria which draw; the same seed gives the same masks.
        data: `(x, y)` or a dataset, for criteria that are measured on data.
        batch_size: Integer, for data in arrays.
        verbose: 0 is quiet, 1 shows the progress through the data.

    Returns:
        A tuple of `UnitCount`, one for each set of coupled units.

    Raises:
        ValueError: If no units can be pruned, an argument is out of its range, scores are not
            finite, or data, or a loss, is missing. Nothing is changed then.

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
    """
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
    units.mask(choose_units(units, target, scoring))
    return units.counts()
