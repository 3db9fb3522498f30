"""The engine that makes a smaller model: kept units -> new model, weights, optimizer slots."""

import functools
from dataclasses import dataclass

import numpy as np

from tfprune import _keras, convert
from tfprune.coupling.rules import rule_of
from tfprune.coupling.units import Coupling


@dataclass(frozen=True, eq=False)
class Sizes:
    """The sizes of weights and tensors when only some units are kept.

    Attributes:
        coupling: The units of the model.
        kept: For each unit, whether it stays.
    """

    coupling: Coupling
    kept: np.ndarray

    @functools.cached_property
    def selections(self):
        """For each variable, by id, the kept indices along each axis that changes.

        They are one-dimensional; where units differ along other axes too they have the variable's
        axes and stand last, for arrays that are cut along the axes before.
        """
        selections, uneven = {}, []
        for piece in self.coupling.slices:
            stays = self.kept[self.coupling.roots[piece.labels]]
            if stays.ndim > 1:
                uneven.append((piece, stays))
            elif not stays.all():
                selections.setdefault(id(piece.variable), {})[piece.axis] = np.flatnonzero(stays)
        for piece, stays in uneven:
            chosen = selections.setdefault(id(piece.variable), {})
            for axis, indices in chosen.items():
                stays = np.take(stays, indices, axis) if stays.shape[axis] != 1 else stays
            if not stays.all():
                chosen[piece.axis] = _kept_first(stays, piece)
        return selections

    def of_weight(self, variable):
        """The new shape of a variable."""
        shape = list(variable.shape)
        for axis, indices in self.selections.get(id(variable), {}).items():
            shape[axis] = indices.shape[axis] if indices.ndim > 1 else len(indices)
        return tuple(shape)

    def of_tensor(self, tensor):
        """The new shape of a tensor, with the batch axis; None stays None."""
        shape = list(tensor.shape)
        for axis, size in enumerate(self.coupling.tensor_labels[tensor].shape):
            if size != 1:
                shape[axis + 1] = int(self.kept_labels(tensor, axis).sum())
        return tuple(shape)

    def kept_labels(self, tensor, axis):
        """For each position along an axis of a tensor, whether it stays."""
        labels = np.moveaxis(self.coupling.tensor_labels[tensor], axis, 0)
        labels = labels.reshape(len(labels), -1)[:, 0]
        size = tensor.shape[axis + 1]
        return np.broadcast_to(self.kept[self.coupling.roots[labels]], (size,))


def _kept_first(stays, piece):
    """The indices along an axis of what stays, equally many at each place of the other axes."""
    counts = np.unique(stays.sum(axis=piece.axis))
    if len(counts) != 1:
        raise ValueError(
            "The groups of a layer must keep equally many channels. "
            f"Received: layer={piece.layer.name!r}, channels kept={counts.tolist()}."
        )
    indices = np.argsort(~stays, axis=piece.axis, kind="stable")
    return np.take(indices, range(counts[0]), axis=piece.axis)


def rebuild(model, coupling, kept, folds=None, dropped=None):
    """A new model of stock layers with the kept units only.

    Weights are gathered, the compile state and the optimizer's slots go along. The model given is
    not touched.

    Args:
        model: A Functional or built Sequential model.
        coupling: Its units, from `tfprune.coupling.couple(model)`.
        kept: Boolean array over units: which stay. Unit 0, what is fixed, must.
        folds: For operations, by id, a list of `tfprune.coupling.rules.base.Fold`: what is added
            to their biases first.
        dropped: Dict from a `Call` to the places of the inputs that it does without.

    Returns:
        The new model.

    Example:

    >>> import keras
    >>> import numpy as np
    >>> from tfprune.coupling import couple
    >>> model = keras.Sequential([
    ...     keras.Input((3,)), keras.layers.Dense(4, name="hidden"), keras.layers.Dense(2)])
    >>> coupling = couple(model)
    >>> kept = np.ones(coupling.size, bool)
    >>> kept[coupling.sets[0].units[:3]] = False
    >>> rebuild(model, coupling, kept).get_layer("hidden").kernel.shape
    TensorShape([3, 1])
    """
    folds = folds or {}
    sizes = Sizes(coupling, kept)
    selections = sizes.selections
    calls = {}
    for call in coupling.trace.calls:
        calls.setdefault(id(call.operation), []).append(call)

    def edit(config, operation):
        config = convert.to_stock(config)
        if id(operation) in coupling.trace.entries:
            shape = sizes.of_tensor(coupling.trace.entries[id(operation)][0])
            return {**config, "config": {**config["config"], "batch_shape": shape}}
        if id(operation) in calls:
            arguments = dict(config["config"])
            rule_of(operation).resize(arguments, calls[id(operation)][0], sizes)
            if any(fold.layer.bias is None for fold in folds.get(id(operation), [])):
                rule_of(operation).add_bias(arguments, calls[id(operation)][0])
            config = {**config, "config": arguments}
            for call in calls[id(operation)] if "inbound_nodes" in config else []:
                rule_of(operation).rewrite(config["inbound_nodes"][call.place], call, sizes)
        return config

    added = {id(fold.layer.bias): fold.values for each in folds.values() for fold in each}
    factors = _factors(calls, sizes)

    def take(variable, value):
        new_value = (value + added.get(id(variable), 0)) * factors.get(id(variable), 1)
        return _gathered(new_value.astype(value.dtype), selections.get(id(variable), {}))

    def take_slot(variable, value, name):
        axes = _slot_axes(name, len(variable.shape), value.ndim)
        chosen = selections.get(id(variable), {})
        return _gathered(
            value, {axes.index(a): _on(axes, i) for a, i in chosen.items() if a in axes}
        )

    new = convert.rebuilt(model, edit, {_key(call): gone for call, gone in (dropped or {}).items()})
    convert.copy_weights(model, new, take)
    _fill_made_biases(model, new, sizes, folds)
    convert.copy_compile_state(model, new, take_slot)
    return new


def _factors(calls, sizes):
    pairs = [
        pair
        for each in calls.values()
        for pair in rule_of(each[0].operation).factors(each[0], sizes)
    ]
    return {id(variable): factor for variable, factor in pairs}


def _key(call):
    return (*(parent.name for parent in call.parents), call.operation.name, call.place)


def _gathered(value, indices_by_axis):
    for axis, indices in indices_by_axis.items():
        if indices.ndim > 1:
            value = np.take_along_axis(value, indices, axis)
        else:
            value = np.take(value, indices, axis)
    return value


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


def _fill_made_biases(model, new, sizes, folds):
    """Gives the biases that the new model makes their values, cut as the layer's units are."""
    made = {id(f.layer): f for each in folds.values() for f in each if f.layer.bias is None}
    for ours, theirs in _keras.layer_pairs(model, new):
        if id(ours) in made:
            value = made[id(ours)].values
            for axis, labels in enumerate(made[id(ours)].labels):
                stays = np.flatnonzero(sizes.kept[sizes.coupling.roots[labels]])
                value = np.take(value, stays, axis)
            theirs.bias.assign(value)
