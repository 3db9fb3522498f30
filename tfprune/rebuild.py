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
        """For each variable, by id, the kept indices along each axis that changes."""
        selections = {}
        for piece in self.coupling.slices:
            stays = self.kept[self.coupling.roots[piece.labels]]
            if not stays.all():
                selections.setdefault(id(piece.variable), {})[piece.axis] = np.flatnonzero(stays)
        return selections

    def of_weight(self, variable):
        """The new shape of a variable."""
        shape = list(variable.shape)
        for axis, indices in self.selections.get(id(variable), {}).items():
            shape[axis] = len(indices)
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


def rebuild(model, coupling, kept, additions=None):
    """A new model of stock layers with the kept units only.

    Weights are gathered, the compile state and the optimizer's slots go along. The model given is
    not touched.

    Args:
        model: A Functional or built Sequential model.
        coupling: Its units, from `tfprune.coupling.couple(model)`.
        kept: Boolean array over units: which stay. Unit 0, what is fixed, must.
        additions: For layers, by id, a dict from weight name to the array (of the old shape) that
            is added to the weight first. The name `"bias"` is made where a layer has none.

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
    additions = additions or {}
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
            if "bias" in additions.get(id(operation), {}):
                arguments["use_bias"] = True
            config = {**config, "config": arguments}
            for call in calls[id(operation)] if "inbound_nodes" in config else []:
                rule_of(operation).rewrite(config["inbound_nodes"][call.place], call, sizes)
        return config

    added = _additions_by_variable(model, additions)

    def take(variable, value):
        value = (value + added.get(id(variable), 0)).astype(value.dtype)
        return _gathered(value, selections.get(id(variable), {}))

    def take_slot(variable, value, name):
        axes = _slot_axes(name, len(variable.shape), value.ndim)
        chosen = selections.get(id(variable), {})
        return _gathered(value, {axes.index(a): i for a, i in chosen.items() if a in axes})

    new = convert.rebuilt(model, edit)
    convert.copy_weights(model, new, take)
    _fill_made_biases(model, new, sizes, additions)
    convert.copy_compile_state(model, new, take_slot)
    return new


def _gathered(value, indices_by_axis):
    for axis, indices in indices_by_axis.items():
        value = np.take(value, indices, axis=axis)
    return value


def _slot_axes(name, weight_rank, slot_rank):
    """The axes of the weight that a slot has; Adafactor's factors `r` and `c` lack one each."""
    axes = list(range(weight_rank))
    if slot_rank == weight_rank:
        return axes
    if 0 < slot_rank == weight_rank - 1:
        axes.pop(-1 if name == "_r" else -2)
        return axes
    return []


def _bias_of(layer):
    return getattr(getattr(layer, "cell", layer), "bias", None)


def _additions_by_variable(model, additions):
    layers = {id(layer): layer for layer in _keras.all_layers(model)}
    biases = {key: _bias_of(layers[key]) for key in additions}
    return {id(bias): additions[key]["bias"] for key, bias in biases.items() if bias is not None}


def _fill_made_biases(model, new, sizes, additions):
    """Gives the biases that the new model makes their values, cut as the layer's units are."""
    for ours, theirs in _keras.layer_pairs(model, new):
        if id(ours) in additions and _bias_of(ours) is None:
            makes = [p for p in sizes.coupling.slices if p.layer is ours and p.makes][0]
            stays = np.flatnonzero(sizes.kept[sizes.coupling.roots[makes.labels]])
            _bias_of(theirs).assign(np.take(additions[id(ours)]["bias"], stays, axis=-1))
