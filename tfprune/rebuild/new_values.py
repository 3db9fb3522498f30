"""The values of weights, masks and optimizer slots in a model with other units."""

import numpy as np

from tfprune import _keras
from tfprune.coupling.index_maps import gathered, kept_index_maps, matched_index_maps
from tfprune.coupling.rules import rule_of
from tfprune.coupling.sizes import Sizes, scale_factors


class NewValues:
    """What the variables of a model hold in one that keeps some of its units.

    Args:
        kept_units: The units of the new model.
        folds: As in `tfprune.rebuild.engine.rebuild`: constants that are added to biases.
        growth: As there: sets the weights of new units.
    """

    def __init__(self, kept_units, folds, growth):
        self.kept_units, self.growth = kept_units, growth
        self.added, self.factors = added_constants(folds), scale_factors(kept_units)
        self.indices = {} if kept_units.grown else kept_index_maps(kept_units)

    def match(self, new, pairs, made=()):
        """Finds what goes where in a model with new units: see `matched_index_maps`."""
        self.indices = matched_index_maps(self.kept_units, new, pairs, made)

    def kept(self, variable):
        """The new value where units are only removed, or None if it stays."""
        value = _keras.values(variable)
        new = gathered(self._changed(variable, value), self._of(variable), None)
        return None if new is value else new

    def weight(self, variable, value, counterpart):
        """The new value of a variable, which has the shape of its counterpart."""
        new = self._changed(variable, value)
        if self.growth is not None:
            new = self.growth.new_value(variable, new, self._of(variable), counterpart)
        else:
            new = gathered(new, self._of(variable), counterpart)
        return _checked(variable, new.astype(value.dtype, copy=False), counterpart)

    def mask(self, variable, value, counterpart):
        """The new value of a mask of a variable."""
        return gathered(value, self._of(variable), counterpart)

    def slot(self, variable, value, counterpart, name):
        """The new value of an optimizer slot of a variable."""
        return gathered_slot(variable, value, self._of(variable), counterpart, name)

    def _of(self, variable):
        return self.indices.get(id(variable), {})

    def _changed(self, variable, value):
        new = value
        if id(variable) in self.added:
            new = new + self.added[id(variable)]
        if id(variable) in self.factors:
            factor, summand = self.factors[id(variable)]
            new = new * factor + summand
        return new.astype(value.dtype, copy=False)


def added_constants(folds):
    """Returns for biases, by id, the folded constants; under `id(None)` those of missing biases."""
    return {id(fold.layer.bias): fold.values for each in folds.values() for fold in each}


def refuse_summands(kept_units):
    """Refuses to keep masks that hold elements at 0 which a smaller operation adds something to."""
    for call in kept_units.coupling.trace.calls:
        for variable, _, *summand in rule_of(call.operation).factors(call, Sizes(kept_units)):
            if any(summand):
                _refuse_pruned(variable, call.operation, kept_units)


def _refuse_pruned(variable, layer, kept_units):
    is_pruned = ~_keras.live_elements(variable).numpy() & (_keras.values(variable) == 0)
    indices = kept_index_maps(kept_units).get(id(variable), {})
    if gathered(is_pruned, indices, None).any():
        raise ValueError(
            "Cannot resize a layer with its masks, because elements that are 0 would have another "
            "value in the smaller layer. "
            f"Received: layer={layer.name!r}, weight={variable.path!r}. Set the masks of this "
            "weight with `tfprune.set_masks(model, layer, weight, trainable=True)`, or use "
            "`tfprune.strip`, which leaves no masks."
        )


def _checked(variable, value, counterpart):
    if tuple(value.shape) != tuple(counterpart.shape):
        raise ValueError(
            "A weight does not fit the new model, because its layer does not tell which units "
            f"stand where in it. Received: weight={variable.path!r}, shape={tuple(value.shape)}, "
            f"where {tuple(counterpart.shape)} is needed. Leave the units before it as they are."
        )
    return value


def gathered_slot(variable, value, indices_by_axis, counterpart, name):
    """Returns an optimizer slot gathered by its weight's index maps; it may lack some axes.

    Args:
        variable: The old weight.
        value, counterpart: The slot's, as in `gathered`.
        indices_by_axis: Those of the weight.
        name: The name of the slot's list in the optimizer.
    """
    axes = _slot_axes(name, len(variable.shape), value.ndim)
    selected = {
        axes.index(a): _without_axes(axes, i) for a, i in indices_by_axis.items() if a in axes
    }
    return gathered(value, selected, counterpart)


def _without_axes(axes, indices):
    """Indices for a slot that lacks axes of its weight: those at the first index of these axes."""
    if indices.ndim == 1:
        return indices
    lacking = tuple(axis for axis in range(indices.ndim) if axis not in axes)
    return np.take(indices, 0, axis=lacking[0]) if lacking else indices


def _slot_axes(name, weight_rank, slot_rank):
    """The axes of the weight that a slot has; Adafactor's factors `r` and `c` lack one each."""
    axes = list(range(weight_rank))
    if slot_rank == weight_rank:
        return axes
    if 0 < slot_rank == weight_rank - 1:
        axes.pop(-1 if name == "_r" else -2)
        return axes
    return []
