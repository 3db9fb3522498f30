"""The units of a model that may be pruned: which of them go, and every slice that goes along."""

from dataclasses import dataclass

import numpy as np

from tfprune import _keras, choices
from tfprune.coupling.groups import choose_evenly, even_sides, linked
from tfprune.coupling.units import couple
from tfprune.criteria import units as criteria
from tfprune.layers import Masked
from tfprune.masks import masked_layers, set_masks
from tfprune.patterns import pruned_count

PREDICATE = "layer -> bool"
"""What a predicate over units takes and returns."""


@dataclass(frozen=True)
class UnitCount:
    """How many units a set of coupled units has, and how many are pruned."""

    name: str
    units: int
    pruned: int


class PrunableUnits:
    """The units of a model that may be pruned, by sets, and their masks.

    Args:
        model, only, exclude, min_units: See `prune_units`.

    Raises:
        ValueError: If there are none.
    """

    def __init__(self, model, *, only=None, exclude=None, min_units=1):
        if isinstance(min_units, bool) or not isinstance(min_units, int) or min_units < 1:
            raise ValueError(
                f"Argument `min_units` must be a positive integer. Received: {min_units!r}."
            )
        choices.check(only, exclude, PREDICATE)
        self.model = model
        self.min_units = min_units
        self.coupling = couple(model)
        names = {
            id(weight): (layer, name)
            for layer in masked_layers(model)
            for name, weight in layer.masked_weights.items()
        }
        self._masked = [
            (piece, *names[id(piece.variable)])
            for piece in self.coupling.slices
            if id(piece.variable) in names
        ]
        is_chosen = choices.chooser(only, model, default=True, parts=_keras.all_layers)
        is_excluded = choices.chooser(exclude, model, default=False, parts=_keras.all_layers)
        self.sets = [
            s
            for s in self.coupling.sets
            if s.removable
            and any(is_chosen(layer) for layer in s.layers)
            and not any(is_excluded(layer) for layer in s.layers)
            and self._is_masked(s)
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
        made = {id(p.variable) for p in self.coupling.slices if p.makes and _maker(p) in makers}
        trainable = {id(p.variable) for p, layer, _ in self._masked if layer.trainable}
        return made <= trainable

    def layers(self):
        """The layers whose outputs show the units, each with the axis they stand along."""
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

    def choose(self, target, criterion, seed=None):
        """The units to prune, so that of each set the fraction `target` is pruned.

        Args:
            target: Float from 0 to 1.
            criterion: Callable, from `tfprune.criteria.units.get`.
            seed: Integer.

        Returns:
            A boolean array over units.
        """
        if isinstance(target, bool) or not isinstance(target, (int, float)) or not 0 <= target <= 1:
            raise ValueError(f"Argument `target` must be from 0 to 1. Received: target={target!r}.")
        pruned, frozen = self._pruned(), self._frozen()
        dead = pruned.copy()
        places = {id(unit_set): place for place, unit_set in enumerate(self.sets)}
        for sets, sides in linked(self.sets, even_sides(self.coupling, pruned)):
            counts = [self._count(s, target) * _group_count(s) for s in sets]
            before = [pruned[s.units].sum() for s in sets]
            if all(count <= already for count, already in zip(counts, before, strict=True)):
                continue
            scores = np.full(self.coupling.size, np.inf)
            for unit_set in sets:
                seeds = [seed or 0, places[id(unit_set)]]
                free = ~frozen[unit_set.units] & [reason is None for reason in unit_set.pinned]
                found = self._scores(unit_set, criterion, seeds)
                scores[unit_set.units] = np.where(free, found, np.inf)
            scores[pruned] = -np.inf
            if len(sets) > 1 or len(sides) > 1 or (sides and sets[0].groups is None):
                dead |= _evenly(sets, sides, scores, np.maximum(counts, before))
            else:
                dead[_lowest(sets[0], scores[sets[0].units], self._count(sets[0], target))] = True
        return dead

    def _count(self, unit_set, target):
        """How many units of each group of a set go."""
        size, groups = len(unit_set.units), _group_count(unit_set)
        return min(pruned_count(target, size // groups), (size - self.min_units) // groups)

    def mask(self, dead, optimizer=None):
        """Prunes units, given as a boolean array over all units of the coupling."""
        masks = {}
        for piece, layer, name in self._masked:
            gone = dead[self.coupling.roots[piece.labels]]
            key = (id(layer), name)
            _, _, mask = masks.setdefault(
                key, (layer, name, np.array(np.asarray(layer.trainable_masks[name])))
            )
            mask[piece.spread(gone)] = False
        for layer, name, mask in masks.values():
            set_masks(self.model, layer, name, trainable=mask, optimizer=optimizer)

    def counts(self):
        """How many units of each set are pruned."""
        pruned = self._pruned()
        return tuple(UnitCount(s.name, len(s.units), int(pruned[s.units].sum())) for s in self.sets)

    def _pruned(self):
        """Units of which every masked slice, in the layers that make them, is pruned."""
        pruned = np.ones(self.coupling.size, bool)
        pruned[self.coupling.roots[0]] = False
        made = np.zeros(self.coupling.size, bool)
        for piece, layer, name in self._masked:
            if piece.makes:
                units = self.coupling.roots[piece.labels]
                made[units] = True
                pruned[piece.spread(units)[np.asarray(layer.trainable_masks[name])]] = False
        return pruned & made

    def _frozen(self):
        """Units of which any slice has a frozen element."""
        frozen = np.zeros(self.coupling.size, bool)
        for piece, layer, name in self._masked:
            units = piece.spread(self.coupling.roots[piece.labels])
            frozen[units[np.asarray(layer.frozen_masks[name])]] = True
        return frozen

    def _scores(self, unit_set, criterion, seed):
        """The scores of a set: the sum over the layers that make it."""
        total = np.zeros(len(unit_set.units))
        for layer, family in zip(unit_set.layers, unit_set.families, strict=True):
            units, weights = self._by_unit(layer, family)
            scores = criteria.score(criterion, layer, weights, seed, family)
            members = np.isin(units, unit_set.units)
            total[_places(units[members], unit_set.units)] += scores[members]
        return total

    def _by_unit(self, layer, family):
        """The units a layer makes, in order, and its weights with a row for each."""
        units, weights = None, {}
        for piece, _, name in self._masked:
            if piece.makes and _maker(piece) == (id(layer), family):
                roots = self.coupling.roots[piece.labels]
                units = roots[np.sort(np.unique(roots, return_index=True)[1])]
                rows = np.moveaxis(np.asarray(piece.variable), piece.axis, 0)
                weights[name] = _rows_of(rows.reshape(len(rows), -1), _places(roots, units))
        return units, weights


def _maker(piece):
    return id(piece.layer), piece.family


def _rows_of(rows, places):
    """The rows of each unit side by side; units which have fewer than others are filled with 0."""
    counts = np.bincount(places)
    filled = np.zeros((len(counts), counts.max(), rows.shape[1]), rows.dtype)
    by_unit = np.argsort(places, kind="stable")
    within = np.concatenate([np.arange(count) for count in counts])
    filled[places[by_unit], within] = rows[by_unit]
    return filled.reshape(len(counts), -1)


def _evenly(sets, sides, scores, counts):
    """The units to prune, over all units, of sets that must lose equally many in each group."""
    units = np.unique(np.concatenate([*(s.units for s in sets), *(s.ravel() for s in sides)]))
    caps = [(np.isin(units, s.units), count) for s, count in zip(sets, counts, strict=True)]
    rows = [_places(side.ravel(), units).reshape(side.shape) for side in sides]
    chosen = choose_evenly(scores[units], caps, rows)
    if chosen is None:  # where one set has lost more already, those tied to it must follow
        most = max(count / len(s.units) for s, count in zip(sets, counts, strict=True))
        caps = [(members, most * members.sum()) for members, _ in caps]
        chosen = choose_evenly(scores[units], caps, rows)
    if chosen is None:
        raise ValueError(
            "Units that are pruned already, frozen, pinned or excluded leave no choice in which "
            "all groups lose equally many. "
            f"Received: layers={[s.name for s in sets]}, units to prune={list(map(int, counts))}. "
            "Leave these layers out with `exclude`, or take their masks off with "
            "`tfprune.set_masks(model, layer, weight, trainable=True)`."
        )
    dead = np.zeros(len(scores), bool)
    dead[units[chosen]] = True
    return dead


def _group_count(unit_set):
    return 1 if unit_set.groups is None else len(unit_set.groups)


def _lowest(unit_set, scores, count):
    """The `count` units with the lowest scores in each group of a set."""
    lowest = []
    for group in unit_set.units[None] if unit_set.groups is None else unit_set.groups:
        values = scores[_places(group, unit_set.units)]
        places = np.argsort(values, kind="stable")[: max(count, 0)]
        if np.isposinf(values[places]).any():
            raise ValueError(
                "Too many units must stay, because they are frozen or pinned, to prune as many as "
                f"asked for. Received: layers={unit_set.name!r}, units to prune={count}, of "
                f"{len(group)} units {int(np.isposinf(values).sum())} must stay. Prune fewer, or "
                "leave the layer out with `exclude`."
            )
        lowest.extend(group[places].tolist())
    return lowest


def _places(units, among):
    """For each unit its place in `among`."""
    order = np.argsort(among)
    return order[np.searchsorted(among, units, sorter=order)]


def _reasons(coupling):
    reasons = sorted({r for s in coupling.sets for r in s.pinned if r is not None})
    return "; ".join(reasons) or "no layer makes units"
