"""Sensitivity analysis: a metric when units of one set of layers are pruned at a time."""

from dataclasses import dataclass

import keras
import numpy as np

from tfprune._tools import plots
from tfprune._tools.checks import check_model
from tfprune._tools.tables import Printable, number, table
from tfprune.coupling.groups import connected_sets, equal_count_constraints
from tfprune.masks import layer_filter
from tfprune.masks.setting import set_masks
from tfprune.measuring.metrics import evaluator, is_larger_better
from tfprune.stripping.prunable import prunable
from tfprune.units.prunable import PrunableUnits
from tfprune.units.scores import UnitScores
from tfprune.units.selection.select_units import select_units


@dataclass(frozen=True)
class SetSensitivity:
    """The metric of the pruned model, for one set of layers that are pruned together.

    Attributes:
        name: The names of the layers.
        layers: The same as a tuple.
        units: How many units they have.
        pruned: For each fraction the number of pruned units.
        values: For each fraction the metric.
    """

    name: str
    layers: tuple
    units: int
    pruned: tuple
    values: tuple


@dataclass(frozen=True)
class Sensitivity(Printable, plots.Plottable):
    """The result of `sensitivity`; prints as a table.

    Attributes:
        metric: The name of the metric.
        baseline: The metric of the model as it is.
        fractions: The fractions of units that were pruned.
        sets: A `SetSensitivity` for each set of layers that are pruned together.
        larger_is_better: Whether the metric falls as the model gets worse.
    """

    metric: str
    baseline: float
    fractions: tuple
    sets: tuple
    larger_is_better: bool

    def caps(self, tolerance):
        """The largest fraction that can be pruned of each layer within a tolerance of the metric.

        Args:
            tolerance: Non-negative float, by how much the metric may get worse, in its own units:
                0.01 is one point of accuracy.

        Returns:
            A dict from layer name to the largest measured fraction up to which the metric stays
            within the tolerance; 0.0 where the smallest is too much. Pass it as `max_fraction` of
            `tfprune.Selection`.

        Raises:
            ValueError: If the tolerance is negative.
        """
        if not tolerance >= 0:
            raise ValueError(
                f"Argument `tolerance` must not be negative. Received: tolerance={tolerance!r}."
            )
        sign = 1 if self.larger_is_better else -1
        caps = {}
        for found in self.sets:
            cap = 0.0
            for fraction, value in zip(self.fractions, found.values, strict=True):
                if not sign * (self.baseline - value) <= tolerance:
                    break
                cap = fraction
            caps |= dict.fromkeys(found.layers, cap)
        return caps

    def tables(self):
        """The rich table that is printed, a row for each set."""
        columns = ["units", *(f"{fraction:.0%}" for fraction in self.fractions)]
        title = f"{self.metric}, {number(self.baseline)} as it is, with a fraction of units pruned"
        rows = table(("layers",), columns)
        for found in self.sets:
            values = (number(value) for value in found.values)
            rows.add_row(found.name, str(found.units), *values)
        return [title, "", rows]

    def _figure(self):
        """The metric over the fraction, a line for each set."""
        figure = plots.figure("Sensitivity.plot", figsize=(7, 4.5), layout="constrained")
        axes = figure.subplots()
        axes.axhline(self.baseline, color="gray", linestyle=":", label="as it is")
        for place, found in enumerate(self.sets):
            style = ("-", "--", "-.", ":")[place // 10 % 4]  # colours come again after ten
            shown = ([0.0, *self.fractions], [self.baseline, *found.values])
            axes.plot(*shown, style, marker=".", label=found.name)
        axes.set(xlabel="fraction of units pruned", ylabel=self.metric)
        figure.legend(loc="outside right upper", fontsize="small")
        return figure


def sensitivity(
    model,
    data,
    metric="accuracy",
    *,
    fractions=(0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9),
    criterion="magnitude",
    only=None,
    exclude=None,
    larger_is_better=None,
    verbose=0,
):
    """Measures how a metric falls when the units of one set of layers at a time are pruned.

    Use it to find layers that should be pruned less than others. Layers whose units are coupled are
    one set, and so are those that must lose equally many, as around a grouped convolution. Nothing
    is trained in between; the model given is not changed.

    Args:
        model: Any Keras model that is built, masked or not.
        data: `(x, y)`, or a `tf.data.Dataset` or `keras.utils.PyDataset` of batches, which are
            gone through once for each set and fraction.
        metric: What `compile` takes as one of its `metrics`.
        fractions: Increasing fractions of the units of a set.
        criterion: Which units go first; see `tfprune.prune_units`. It is measured on `data`, where
            it needs data.
        only, exclude: Layers that are measured, and that are not; see `tfprune.prune_units`.
        larger_is_better: Whether a larger metric is better; by default it depends on the name, as
            "accuracy".
        verbose: 0 is quiet, 1 shows the progress.

    Returns:
        A `Sensitivity`: prints as a table, has `plot(path)`, and `caps(tolerance)` for the
        `max_fraction` of `tfprune.Selection`.

    Raises:
        ValueError: If there are no units to prune, or an argument is out of its range.

    Example:

    >>> model = keras.Sequential([
    ...     keras.Input((4,)), keras.layers.Dense(8, name="hidden"), keras.layers.Dense(1)])
    >>> found = sensitivity(model, (np.ones((8, 4)), np.ones((8, 1))), "mae", fractions=[0.5])
    >>> found.sets[0].name, found.sets[0].pruned
    ('hidden', (4,))
    """
    check_model(model)
    fractions = _checked_fractions(fractions)
    scoring = UnitScores(criterion, data=data)
    copy = prunable(model)
    of_copy = layer_filter.Counterparts(model, copy).filter
    units = PrunableUnits(copy, only=of_copy(only), exclude=of_copy(exclude))
    evaluate = evaluator(copy, [metric])
    ((name, baseline),) = evaluate(data).items()
    constraints = equal_count_constraints(units.coupling, units.pruned())
    together = [sets for sets, _ in connected_sets(units.sets, constraints)]
    progress = keras.utils.Progbar(len(together) * len(fractions), verbose=verbose)
    every, found = units.sets, []
    for sets in together:
        before = _snapshot(units, sets)
        pruned, values = [], []
        for fraction in fractions:
            units.sets = tuple(sets)
            units.mask(select_units(units, fraction, scoring))
            pruned.append(sum(count.pruned for count in units.counts()))
            values.append(next(iter(evaluate(data).values())))
            progress.add(1)
        units.sets = every
        _restore(copy, before)
        found.append(
            SetSensitivity(
                name=" + ".join(s.name for s in sets),
                layers=tuple(dict.fromkeys(layer.name for s in sets for layer in s.layers)),
                units=sum(len(s.units) for s in sets),
                pruned=tuple(pruned),
                values=tuple(values),
            )
        )
    if larger_is_better is None:
        larger_is_better = is_larger_better(name)
    return Sensitivity(name, baseline, fractions, tuple(found), bool(larger_is_better))


def _checked_fractions(fractions):
    fractions = tuple(float(fraction) for fraction in fractions)
    is_rising = all(a < b for a, b in zip(fractions, fractions[1:], strict=False))
    if not fractions or not is_rising or not fractions[0] > 0 or not fractions[-1] <= 1:
        raise ValueError(
            "Argument `fractions` must be increasing numbers above 0 and up to 1. "
            f"Received: fractions={fractions}."
        )
    return fractions


def _snapshot(units, sets):
    """The weights which units of some sets stand in, with their masks."""
    members = np.isin(units.coupling.roots, np.concatenate([s.units for s in sets]))
    return {
        (layer.name, name): (layer, np.array(layer.trainable_masks[name]), np.array(piece.variable))
        for piece, layer, name in units.masked
        if members[piece.labels].any()
    }


def _restore(model, before):
    for (_, name), (layer, mask, value) in before.items():
        set_masks(model, layer, name, trainable=mask)
        layer.masked_weights[name].assign(value)
