"""The prunable units of a model, with their slices and masks."""

from dataclasses import dataclass

import numpy as np

from tfprune.coupling.analysis import couple
from tfprune.layers import Masked
from tfprune.masks import layer_filter
from tfprune.masks.setting import masked_layers, set_masks

PREDICATE = "layer -> bool"
"""The signature of a predicate over layers."""


@dataclass(frozen=True)
class UnitCount:
    """The number of units in a set of coupled units, and of those that are pruned."""

    name: str
    units: int
    pruned: int


class PrunableUnits:
    """The prunable units of a model, by sets of coupled units, and their masks.

    Args:
        model, only, exclude: See `tfprune.prune_units`.
        min_units: Integer, the least number of units that each layer keeps.

    Raises:
        ValueError: If there are none.
    """

    def __init__(self, model, *, only=None, exclude=None, min_units=1):
        layer_filter.check(only, exclude, PREDICATE)
        self.model = model
        self.min_units = min_units
        self.coupling = couple(model)
        names = {
            id(weight): (layer, name)
            for layer in masked_layers(model)
            for name, weight in layer.masked_weights.items()
        }
        self.masked = [
            (piece, *names[id(piece.variable)])
            for piece in self.coupling.slices
            if id(piece.variable) in names
        ]
        is_selected = layer_filter.set_predicate(model, only, exclude)
        self.sets = [
            s for s in self.coupling.sets if s.removable and is_selected(s) and self._is_masked(s)
        ]
        if not self.sets:
            raise ValueError(
                "The model has no units that can be pruned: they must be made by layers that carry "
                "masks and are trainable, and not be inputs or outputs. "
                f"Received: model={model.name!r}, only={only!r}, exclude={exclude!r}. "
                f"What holds them: {_reasons(self.coupling)}. "
                "Make the model prunable with `tfprune.prunable(model)`."
            )

    def _is_masked(self, unit_set):
        """Whether every weight that makes the units of a set carries a mask and is trainable."""
        makers = set(zip(map(id, unit_set.layers), unit_set.families, strict=True))
        made = {
            id(p.variable)
            for p in self.coupling.slices
            if p.makes and (id(p.layer), p.family) in makers
        }
        trainable = {id(p.variable) for p, layer, _ in self.masked if layer.trainable}
        return made <= trainable

    def layers(self):
        """The layers that have the units in their outputs, with their number and axis."""
        found = {}
        makers = {
            id(layer)
            for unit_set in self.sets
            for layer, family in zip(unit_set.layers, unit_set.families, strict=True)
            if family is None and isinstance(layer, Masked)
        }
        for call in self.coupling.trace.calls:
            if id(call.operation) in makers and id(call.operation) not in found:
                labels = self.coupling.tensor_labels[call.outputs[0]]
                axis = int(np.argmax(labels.shape)) + 1
                found[id(call.operation)] = (call.operation, labels.size, axis)
        return list(found.values())

    def mask(self, dead, optimizer=None):
        """Prunes units, given as a boolean array over all units of the coupling."""
        masks = {}
        for piece, layer, name in self.masked:
            removed = dead[self.coupling.roots[piece.labels]]
            key = (id(layer), name)
            _, _, mask = masks.setdefault(
                key, (layer, name, np.array(np.asarray(layer.trainable_masks[name])))
            )
            mask[piece.broadcast(removed)] = False
        for layer, name, mask in masks.values():
            set_masks(self.model, layer, name, trainable=mask, optimizer=optimizer)

    def counts(self):
        """A `UnitCount` for each set."""
        pruned = self.pruned()
        return tuple(UnitCount(s.name, len(s.units), int(pruned[s.units].sum())) for s in self.sets)

    def pruned(self):
        """Units of which every masked slice, in the layers that make them, is pruned."""
        pruned = np.ones(self.coupling.size, bool)
        pruned[self.coupling.roots[0]] = False
        made = np.zeros(self.coupling.size, bool)
        for piece, layer, name in self.masked:
            if piece.makes:
                units = self.coupling.roots[piece.labels]
                made[units] = True
                pruned[piece.broadcast(units)[np.asarray(layer.trainable_masks[name])]] = False
        return pruned & made

    def frozen(self):
        """Units of which any slice has a frozen element."""
        frozen = np.zeros(self.coupling.size, bool)
        for piece, layer, name in self.masked:
            units = piece.broadcast(self.coupling.roots[piece.labels])
            frozen[units[np.asarray(layer.frozen_masks[name])]] = True
        return frozen


def indices_in(units, among):
    """For each unit its index in `among`."""
    order = np.argsort(among)
    return order[np.searchsorted(among, units, sorter=order)]


def _reasons(coupling):
    reasons = sorted({r for s in coupling.sets for r in s.pinned if r is not None})
    return "; ".join(reasons) or "no layer makes units"
