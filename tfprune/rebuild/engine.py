"""The engine that makes a new model: selected units -> config, weights, optimizer slots.

The sizes are edited in the model's config, and Keras deserializes it. So names, shared layers and
nested models stay as they are, and the model given is not touched.
"""

import functools
from dataclasses import dataclass

import keras
import numpy as np

from tfprune import _keras
from tfprune.coupling.index_maps import equal_count, kept_index_maps, matched_index_maps
from tfprune.coupling.kept_units import NEW, KeptUnits
from tfprune.coupling.labels import placed
from tfprune.coupling.rules import rule_of
from tfprune.coupling.units import couple
from tfprune.rebuild import convert


@dataclass(frozen=True, eq=False)
class Sizes:
    """The sizes of weights and tensors when units go and come.

    Attributes:
        kept_units: Which units there are then.
    """

    kept_units: KeptUnits

    @property
    def coupling(self):
        """The units before."""
        return self.kept_units.coupling

    def counts(self, labels):
        """For each label how many positions stand in the place of its position."""
        return self.kept_units.counts[self.coupling.roots[labels]]

    def of_weight(self, variable):
        """The new shape of a variable."""
        pieces = self._pieces.get(id(variable), [])
        along = {p.axis: self.counts(p.labels) for p in pieces if np.ndim(p.labels) == 1}
        shape = [int(along[a].sum()) if a in along else n for a, n in enumerate(variable.shape)]
        for piece in pieces:
            if piece.axis not in along:  # its units differ along other axes too
                counts = self.counts(piece.labels)
                for axis, stays in along.items():
                    if counts.shape[axis] != 1:
                        counts = np.compress(stays > 0, counts, axis)
                shape[piece.axis] = equal_count(counts, piece)
        return tuple(shape)

    @functools.cached_property
    def _pieces(self):
        pieces = {}
        for piece in self.coupling.slices:
            pieces.setdefault(id(piece.variable), []).append(piece)
        return pieces

    def of_tensor(self, tensor):
        """The new shape of a tensor, with the batch axis; None stays None."""
        shape = list(tensor.shape)
        for axis, size in enumerate(self.coupling.tensor_labels[tensor].shape):
            if size != 1:
                shape[axis + 1] = int(self.counts_along(tensor, axis).sum())
        return tuple(shape)

    def counts_along(self, tensor, axis):
        """For each position along an axis of a tensor how many stand in its place."""
        labels = np.moveaxis(self.coupling.tensor_labels[tensor], axis, 0)
        labels = labels.reshape(len(labels), -1)[:, 0]
        return np.broadcast_to(self.counts(labels), (tensor.shape[axis + 1],))


def rebuild(model, kept_units, folds=None, dropped=None, *, growth=None, stock=True):
    """A new model with the units of a kept_units, by default of stock layers.

    Weights are gathered, the compile state and the optimizer's slots go along. What belongs to new
    units is as the layers' initializers and the optimizer make it. The model given is not touched.

    Args:
        model: A Functional or built Sequential model.
        kept_units: Which units the new model has, from `tfprune.coupling.select` or `keeping`.
        folds: For operations, by id, a list of `tfprune.coupling.rules.base.Fold`: what is added
            to their biases first.
        dropped: Dict from a `Call` to the places of the inputs that it does without.
        growth: What the weights of new units become: an object with a method `taken(variable,
            value, indices, counterpart)` which returns the new value, given the old one and the old
            indices along each axis that changes. By default what the initializers made.
        stock: Whether layers that carry masks become stock layers; else their masks go along.

    Returns:
        The new model.

    Raises:
        ValueError: If there is no model with these units.

    Example:

    >>> import keras
    >>> from tfprune.coupling import couple, select
    >>> model = keras.Sequential([
    ...     keras.Input((3,)), keras.layers.Dense(4, name="hidden"), keras.layers.Dense(2)])
    >>> kept_units = select(couple(model), {model.get_layer("hidden"): [1, 3, -1]})
    >>> rebuild(model, kept_units).get_layer("hidden").kernel.shape  # one new unit
    TensorShape([3, 3])
    """
    folds, sizes, calls = folds or {}, Sizes(kept_units), _calls_by_operation(kept_units)
    new = convert.rebuilt(
        model,
        lambda config, operation: _resized(
            convert.to_stock(config) if stock else config, operation, calls, sizes, folds
        ),
        {_key(call): gone for call, gone in (dropped or {}).items()},
    )
    indices = _indices(kept_units, model, new)
    added = added_constants(folds)
    factors = scale_factors(kept_units)

    def take(variable, value, counterpart):
        changed = (value + added.get(id(variable), 0)) * factors.get(id(variable), 1)
        chosen = indices.get(id(variable), {})
        if growth is not None:
            taken = growth.new_value(variable, changed, chosen, counterpart).astype(value.dtype)
        else:
            taken = gathered(changed.astype(value.dtype), chosen, counterpart)
        return _checked(variable, taken, counterpart)

    def take_mask(variable, value, counterpart):
        return gathered(value, indices.get(id(variable), {}), counterpart)

    def take_slot(variable, value, counterpart, name):
        chosen = indices.get(id(variable), {})
        return gathered_slot(variable, value, chosen, counterpart, name)

    convert.copy_weights(model, new, take, take_mask)
    _fill_made_biases(model, new, kept_units, folds)
    convert.copy_compile_state(model, new, take_slot)
    return new


def _calls_by_operation(kept_units):
    calls = {}
    for call in kept_units.coupling.trace.calls:
        calls.setdefault(id(call.operation), []).append(call)
    return calls


def _resized(config, operation, calls, sizes, folds):
    """A serialised operation with the new sizes in its arguments and in those of its calls."""
    coupling = sizes.coupling
    if id(operation) in coupling.trace.entries:
        shape = sizes.of_tensor(coupling.trace.entries[id(operation)][0])
        return {**config, "config": {**config["config"], "batch_shape": shape}}
    if id(operation) not in calls:
        return config
    rule, arguments = rule_of(operation), dict(config["config"])
    rule.resize(arguments, calls[id(operation)][0], sizes)
    if any(fold.layer.bias is None for fold in folds.get(id(operation), [])):
        rule.add_bias(arguments, calls[id(operation)][0])
    config = {**config, "config": arguments}
    # A model that is called twice has its operations called twice, at the same place.
    by_place = {call.node_index: call for call in reversed(calls[id(operation)])}
    for place, call in by_place.items() if "inbound_nodes" in config else ():
        rule.rewrite(config["inbound_nodes"][place], call, sizes)
    return config


def _indices(kept_units, model, new):
    """For each variable, by id, the old indices along the axes that change."""
    if not kept_units.grown:
        return kept_index_maps(kept_units)
    return matched_index_maps(kept_units, couple(new), _keras.variable_pairs(model, new))


def added_constants(folds):
    """For biases, by id, what is added to them. The key of what has no bias yet is `id(None)`."""
    return {id(fold.layer.bias): fold.values for each in folds.values() for fold in each}


def scale_factors(kept_units):
    """For variables, by id, what they are multiplied with where units leave a norm's mean."""
    calls, sizes = _calls_by_operation(kept_units), Sizes(kept_units)
    pairs = [
        pair
        for each in calls.values()
        for pair in rule_of(each[0].operation).factors(each[0], sizes)
    ]
    return {id(variable): factor for variable, factor in pairs}


def _key(call):
    return (*(parent.name for parent in call.parents), call.operation.name, call.node_index)


def gathered(value, indices_by_axis, counterpart):
    """The places of an array; in new ones, what its counterpart holds.

    Args:
        value: The array.
        indices_by_axis: For axes that change the old indices, `NEW` where there is none; those that
            differ along other axes too stand last.
        counterpart: The variable of the new model, or an array.
    """
    is_new = np.zeros((1,) * value.ndim, bool)
    for axis, indices in indices_by_axis.items():
        if indices.ndim > 1:
            value = np.take_along_axis(value, indices, axis)
        else:
            value = np.take(value, indices, axis)
        is_new = is_new | new_positions(indices, axis, value.ndim)
    if is_new.any():
        if isinstance(counterpart, keras.Variable):
            counterpart = keras.ops.convert_to_numpy(_keras.raw(counterpart))
        value = np.where(is_new, counterpart, value)
    return value


def _checked(variable, value, counterpart):
    if tuple(value.shape) != tuple(counterpart.shape):
        raise ValueError(
            "A weight does not fit the new model, because its layer does not tell which units "
            f"stand where in it. Received: weight={variable.path!r}, shape={tuple(value.shape)}, "
            f"where {tuple(counterpart.shape)} is needed. Leave the units before it as they are."
        )
    return value


def gathered_slot(variable, value, indices_by_axis, counterpart, name):
    """The same for a slot of a weight, which may lack axes of it.

    Args:
        variable: The old weight.
        value, counterpart: The slot's.
        indices_by_axis: As of the weight.
        name: The name of the slot's list in the optimizer.
    """
    axes = _slot_axes(name, len(variable.shape), value.ndim)
    chosen = {axes.index(a): _on(axes, i) for a, i in indices_by_axis.items() if a in axes}
    return gathered(value, chosen, counterpart)


def new_positions(indices, axis, rank):
    """Where the indices along an axis are `NEW`, as an array of some rank."""
    is_new = indices == NEW
    return is_new if indices.ndim > 1 else placed(is_new, axis, rank)


def _on(axes, indices):
    """Indices for a slot which lacks axes of its weight: those at the first place of these."""
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


def _fill_made_biases(model, new, kept_units, folds):
    """Gives the biases that the new model makes their values, cut as the layer's units are."""
    made = {id(f.layer): f for each in folds.values() for f in each if f.layer.bias is None}
    for ours, theirs in _keras.layer_pairs(model, new):
        if id(ours) in made:
            value = made[id(ours)].values
            for axis, labels in enumerate(made[id(ours)].labels):
                stays = np.flatnonzero(kept_units.counts[kept_units.coupling.roots[labels]])
                value = np.take(value, stays, axis)
            theirs.bias.assign(value)
