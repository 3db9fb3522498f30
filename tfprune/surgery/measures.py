"""What was measured of units at layers without weights, in a model that is edited."""

import keras
import numpy as np

from tfprune.coupling.kept_units import NEW
from tfprune.layers.layer_masks import keep_measured, measured_of
from tfprune.surgery.lookup import calls_of, units_along, walk_operations


def measured_outputs(coupling, measure):
    """Yields the units and the measures along the outputs of operations that make no units.

    Args:
        coupling: The units of the model.
        measure: Function of an operation; returns an array, or None.
    """
    makers = {id(piece.layer) for piece in coupling.slices if piece.makes}
    seen = set()
    for call in coupling.trace.calls:
        if id(call.operation) in makers or id(call.operation) in seen:
            continue
        seen.add(id(call.operation))
        values = measure(call.operation)
        units = () if values is None else units_along(coupling, call.outputs[0])
        if len(units) and len(units) == len(values):
            yield units, values


def carry_over_resize(model, new, kept_units):
    """Gives operations without weights what was measured of units that stay; of new ones the mean.

    Args:
        model: The model.
        new: The model that was rebuilt from it.
        kept_units: The `KeptUnits`.
    """
    for ours, theirs in _measured_pairs(model, new):
        average, steps = measured_of(ours)
        calls = calls_of(kept_units.coupling, ours)
        units = units_along(kept_units.coupling, calls[0].outputs[0]) if calls else ()
        if len(units) != len(average):
            continue
        in_place = [kept_units.expanded(np.array([unit])) for unit in units]
        taken = [
            average.mean() if each == NEW else value
            for value, after in zip(average, in_place, strict=True)
            for each in after
        ]
        keep_measured(theirs, (np.array(taken, average.dtype), steps))


def carry_over_edits(model, new, before=None, after=None, made=()):
    """Gives operations without weights what was measured, where units move in the graph.

    Args:
        model: The model.
        new: The model that was rebuilt from it.
        before, after: The `Coupling` of either, if the outputs of operations changed.
        made: Pairs of arrays, old units or `NEW`, and the new units in their place.
    """
    old_units = {
        unit: old
        for were, are in made
        for old, unit in zip(np.asarray(were).tolist(), np.asarray(are).tolist(), strict=True)
    }
    for ours, theirs in _measured_pairs(model, new):
        average, steps = measured_of(ours)
        if after is not None:
            units, now = (
                units_along(coupling, calls_of(coupling, operation)[0].outputs[0]).tolist()
                for coupling, operation in ((before, ours), (after, theirs))
            )
            if len(units) == len(average) and not old_units.keys().isdisjoint(now):
                taken, left = [], dict(zip(units, average.tolist(), strict=True))
                for unit in now:
                    taken.append(left.get(old_units.get(unit, NEW), average.mean()))
                average = np.array(taken, average.dtype)
        keep_measured(theirs, (average, steps))


def _measured_pairs(model, new):
    """Operations without weights that were measured, each with that of the same name."""
    counterparts = {(path, each.name): each for path, each in walk_operations(new)}
    for path, operation in walk_operations(model):
        has_weights = isinstance(operation, keras.layers.Layer) and operation.weights
        counterpart = counterparts.get((path, operation.name))
        if not has_weights and counterpart is not None and measured_of(operation) is not None:
            yield operation, counterpart
