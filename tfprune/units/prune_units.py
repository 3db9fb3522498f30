"""Prunes coupled units in one step."""

from tfprune._tools.checks import check_model
from tfprune.masks.skipping import warn_of_skipped
from tfprune.units.by_index import layers_of, select_by_index
from tfprune.units.prunable import PrunableUnits
from tfprune.units.scores import UnitScores
from tfprune.units.selection import selection as selections
from tfprune.units.selection.select_units import select_units


def prune_units(
    model,
    target=None,
    criterion="magnitude",
    *,
    units=None,
    selection="uniform",
    data=None,
    only=None,
    exclude=None,
    verbose=0,
):
    """Prunes units of a masked model in place, those with the lowest scores first.

    A unit is masked as a whole: its column in the kernel of the layer that makes it, its bias, its
    entries in norms, and its rows in the layers that use it. `tfprune.strip` then removes it. Units
    that are pruned already stay pruned and count. Units with a frozen weight, and those of layers
    with `trainable=False`, are kept. All masks are computed before the first is set, so an error
    leaves the model as it was. To prune on a schedule while a model trains, use
    `tfprune.callbacks.PruneUnits`.

    A budget is met from below: `tfprune.strip` returns a model with no more than may remain. None
    of the units that are pruned could be kept within the budget, save where groups must stay equal
    or `round_to` requires multiples: there none of the groups or multiples could.

    Args:
        model: A model of drop-in layers, see `tfprune.prunable`.
        target: Float from 0 to 1, the fraction of units to prune (the unit sparsity), of each layer
            or, with another selection than "uniform", of all together; or a budget of
            `tfprune.budgets`, for what may remain.
        units: Instead of a target, which units to prune: a dict from layers or their names to what
            indexes an array of their units, as `{"conv": [1, 5]}`. Each goes with its whole group:
            with the units of other layers that it is coupled with (`tfprune.explain` lists them).
        criterion: The name of a criterion ("magnitude", "l1", "taylor", ...), a
            `tfprune.criteria.Criterion` with its arguments, or a callable; see
            `tfprune.criteria.units`.
        selection: "uniform", "global", "greedy", "exact" or "same_class", or a `tfprune.Selection`
            with its arguments (`round_to`, `min_units`, `max_fraction`).
        data: `(x, y)` or a dataset of batches, for criteria that are measured on data. Arrays are
            read in batches of 32.
        only: The layers whose units may go: a layer or its name, a sequence of these, where a
            nested model stands for all in it, or a predicate `layer -> bool`; by default all that
            can.
        exclude: Layers that keep their units although `only` selects them, given in the same way.
            Units that are coupled with those of an excluded layer are kept too.
        verbose: 0 is quiet, 1 shows the progress through the data.

    Returns:
        A tuple of `UnitCount`, one for each set of coupled units.

    Raises:
        ValueError: If no units can be pruned, one in `units` cannot, an argument is out of its
            range, scores are not finite, data or a loss is missing, or a budget cannot be met (the
            error says what can). Nothing is changed then.

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
    check_model(model)
    selection = selections.get(selection)
    scoring = UnitScores(criterion, data=data, verbose=verbose)
    if units is not None:
        if not (target is None and only is None and exclude is None):
            raise ValueError(
                "Argument `units` says which units to prune, so `target`, `only` and `exclude` "
                f"must be None. Received: target={target!r}, only={only!r}, exclude={exclude!r}."
            )
        found = PrunableUnits(model, only=layers_of(model, units))
        scoring.prune(found, select_by_index(found, units))
        return found.counts()
    return prune_by(scoring, model, target, selection=selection, only=only, exclude=exclude)


def prune_by(scoring, model, target, *, selection, only=None, exclude=None, progress=1.0):
    """Prunes units in place by `UnitScores`, as far as `progress` on the way to a budget.

    Args:
        scoring: `UnitScores`.
        model, target, only, exclude: See `prune_units`.
        selection: `Selection`.
        progress: Float from 0, for the cost of the dense model, to 1, for the budget.

    Returns:
        A tuple of `UnitCount`, one for each set of coupled units.
    """
    found = PrunableUnits(model, only=only, exclude=exclude, min_units=selection.min_units)
    scoring.prune(found, select_units(found, target, scoring, selection, progress))
    warn_of_skipped(found.skipped)
    return found.counts()
