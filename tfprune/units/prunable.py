"""The prunable units of a model, with their slices and masks."""

from dataclasses import dataclass

import numpy as np

from tfprune import _keras
from tfprune.coupling.analysis import couple
from tfprune.layers import Masked
from tfprune.masks import layer_filter, skipping
from tfprune.masks.setting import assign_masks, masked_layers

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
        is_named = layer_filter.naming(only, model)
        selected = [s for s in self.coupling.sets if s.removable and is_selected(s)]
        reasons = set_skip_reasons(self.coupling, is_named)
        self.sets = [s for s in selected if reasons[id(s)] is None]
        self.skipped = {}
        """The names of the sets that are selected and skipped all the same, by the reason."""
        for unit_set in selected:
            if reasons[id(unit_set)] is not None:
                self.skipped.setdefault(reasons[id(unit_set)], []).append(unit_set.name)
        chosen, excluded = layer_filter.predicates(model, only, exclude)
        self.skipped |= skipping.quantized_layers(
            model, lambda layer: chosen(layer) and not excluded(layer)
        )
        changed = set(_keras.changed_kernels(model))
        for unit_set in self.coupling.sets:
            if not unit_set.removable and is_selected(unit_set):
                for why in changed.intersection(unit_set.pinned):
                    self.skipped.setdefault(why, []).append(unit_set.name)
        if not self.sets:
            raise ValueError(
                "The model has no units that can be pruned. "
                f"Received: model={model.name!r}, only={only!r}, exclude={exclude!r}. "
                f"What holds them: {self._what_holds_them(selected)}."
                + ("" if masked_layers(model) else f" {model.name!r}: {skipping.NO_MASKS}.")
            )

    def _what_holds_them(self, selected):
        """Every set of units with the reason why none of it can be pruned."""
        found = dict(self.skipped)
        for unit_set in self.coupling.sets:
            if not unit_set.removable:
                for why in dict.fromkeys(unit_set.pinned):
                    found.setdefault(why, []).append(unit_set.name)
            elif not any(unit_set is other for other in selected):
                why = "`only` and `exclude` do not select it"
                found.setdefault(why, []).append(unit_set.name)
        lora = [why for why in _keras.changed_kernels(self.model) if "LoRA" in why]
        why = [*lora, skipping.listed(found)] if found else lora
        return "; ".join(why) or "no layer makes units"

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
        optimizer = getattr(self.model, "optimizer", None) if optimizer is None else optimizer
        arrays = {}
        for piece, layer, name in self.masked:
            removed = dead[self.coupling.roots[piece.labels]]
            mask = layer.masks_by_name[name]
            _, kept = arrays.setdefault(id(mask), (mask, _keras.values(mask.trainable).copy()))
            kept &= ~piece.placed(removed)
        for mask, kept in arrays.values():
            assign_masks(mask, trainable=kept, optimizer=optimizer)

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
                kept = piece.any(_keras.values(layer.masks_by_name[name].trainable))
                pruned[units[kept]] = False
        return pruned & made

    def frozen(self):
        """Units of which any slice has a frozen element."""
        frozen = np.zeros(self.coupling.size, bool)
        for piece, layer, name in self.masked:
            is_frozen = piece.any(_keras.values(layer.masks_by_name[name].frozen))
            frozen[self.coupling.roots[piece.labels][is_frozen]] = True
        return frozen


def indices_in(units, among):
    """For each unit its index in `among`."""
    order = np.argsort(among)
    return order[np.searchsorted(among, units, sorter=order)]


def set_skip_reasons(coupling, is_named=lambda layer: False):
    """Why `prune_units` skips sets of units though they can be removed.

    Args:
        coupling: A `Coupling`.
        is_named: Predicate over layers: whether `only` names the layer.

    Returns:
        A dict from the id of each set to the reason, None where it does not.
    """
    makers = {}
    for piece in coupling.slices:
        if piece.makes:
            makers.setdefault((id(piece.layer), piece.family), []).append(piece.variable)
    found = {}
    for unit_set in coupling.sets:
        reasons = [
            skipping.skip_reason(variable, any(map(is_named, unit_set.layers)))
            for layer, family in zip(unit_set.layers, unit_set.families, strict=True)
            for variable in makers[id(layer), family]
        ]
        found[id(unit_set)] = next((why for why in reasons if why is not None), None)
    return found
