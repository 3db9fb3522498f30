"""Masks for units in one step: which units go, and every slice of every weight that goes along."""

from dataclasses import dataclass

import numpy as np

from tfprune.coupling.units import couple
from tfprune.criteria import units as criteria
from tfprune.layers import Masked
from tfprune.masks import find_layer, masked_layers, set_masks
from tfprune.patterns import pruned_count
from tfprune.prune import check_choice, drawn_seed


def prune_units(
    model, target, criterion="magnitude", *, only=None, exclude=None, min_units=1, seed=None
):
    """Prunes units now: in each layer the fraction with the lowest scores.

    A unit is masked as a whole: its column in the kernel of the layer that makes it, its bias, its
    entries in norms, and its rows in the layers that use it. What is pruned already stays so and
    counts. Units of which a weight is frozen, and those of layers with `trainable=False`, stay.
    All masks are computed before the first is set, so an error leaves the model as it was.

    Args:
        model: A model of drop-in layers, see `tfprune.prunable`.
        target: Float from 0 to 1, the fraction of the units of each layer to prune.
        criterion: "magnitude", "random", or a callable; see `tfprune.criteria.units`.
        only: A sequence of layers or layer names whose units may go, or a predicate
            `layer -> bool`; by default all that can.
        exclude: What stays, of what `only` says, given in the same way. Units that are coupled
            with those of an excluded layer stay too.
        min_units: Integer, how many units each layer keeps at least.
        seed: Integer, for criteria which draw; the same seed gives the same masks.

    Returns:
        A tuple of `UnitCount`, one for each set of coupled units.

    Raises:
        ValueError: If no units can be pruned, an argument is out of its range, or scores are not
            finite. Nothing is changed then.

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
    """
    criterion = criteria.get(criterion)
    units = PrunableUnits(model, only=only, exclude=exclude, min_units=min_units)
    dead = units.choose(target, criterion, drawn_seed(seed, criterion))
    units.mask(dead)
    return units.counts()


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
        is_chosen = _chooser("only", only, model, default=True)
        is_excluded = _chooser("exclude", exclude, model, default=False)
        self.sets = [
            s
            for s in self.coupling.sets
            if s.removable
            and any(is_chosen(layer) for layer in s.layers)
            and not any(is_excluded(layer) for layer in s.layers)
            and all(isinstance(layer, Masked) and layer.trainable for layer in s.layers)
        ]
        if not self.sets:
            raise ValueError(
                "The model has no units that can be pruned: they must be made by layers that carry "
                "masks and are trainable, and not be inputs or outputs. "
                f"Received: model={model.name!r}, only={only!r}, exclude={exclude!r}. "
                f"What holds them: {_reasons(self.coupling)}. "
                "Make the model prunable with `tfprune.prunable(model)`."
            )

    def layers(self):
        """The layers that make the units, each with the axis of its output they stand along."""
        found = {}
        makers = {id(layer) for unit_set in self.sets for layer in unit_set.layers}
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
        for place, unit_set in enumerate(self.sets):
            if (
                self._count(unit_set, target) * _group_count(unit_set)
                <= pruned[unit_set.units].sum()
            ):
                continue
            scores = self._scores(unit_set, criterion, [seed or 0, place])
            held = frozen[unit_set.units] | np.array([r is not None for r in unit_set.pinned])
            scores = np.where(held, np.inf, scores)
            scores = np.where(pruned[unit_set.units], -np.inf, scores)
            dead[_lowest(unit_set, scores, self._count(unit_set, target))] = True
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
            np.moveaxis(mask, piece.axis, 0)[gone] = False
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
                mask = np.moveaxis(np.asarray(layer.trainable_masks[name]), piece.axis, 0)
                units = self.coupling.roots[piece.labels]
                made[units] = True
                pruned[units[mask.reshape(len(mask), -1).any(axis=1)]] = False
        return pruned & made

    def _frozen(self):
        """Units of which any slice has a frozen element."""
        frozen = np.zeros(self.coupling.size, bool)
        for piece, layer, name in self._masked:
            mask = np.moveaxis(np.asarray(layer.frozen_masks[name]), piece.axis, 0)
            units = self.coupling.roots[piece.labels]
            frozen[units[mask.reshape(len(mask), -1).any(axis=1)]] = True
        return frozen

    def _scores(self, unit_set, criterion, seed):
        """The scores of a set: the sum over the layers that make it."""
        total = np.zeros(len(unit_set.units))
        for layer in unit_set.layers:
            units, weights = self._by_unit(layer)
            scores = criteria.score(criterion, layer, weights, seed)
            members = np.isin(units, unit_set.units)
            total[_places(units[members], unit_set.units)] += scores[members]
        return total

    def _by_unit(self, layer):
        """The units a layer makes, in order, and its weights with a row for each."""
        units, weights = None, {}
        for piece, owner, name in self._masked:
            if owner is layer and piece.makes:
                roots = self.coupling.roots[piece.labels]
                units = roots[np.sort(np.unique(roots, return_index=True)[1])]
                rows = np.moveaxis(np.asarray(piece.variable), piece.axis, 0)
                by_unit = np.argsort(_places(roots, units), kind="stable")
                weights[name] = rows[by_unit].reshape(len(units), -1)
        return units, weights


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


def _chooser(argument, given, model, default):
    """A function layer -> bool out of what `only` or `exclude` says."""
    check_choice(argument, given)
    if given is None:
        return lambda layer: default
    if callable(given):
        return given
    layers = {id(find_layer(model, layer)) for layer in given}
    return lambda layer: id(layer) in layers


def _reasons(coupling):
    reasons = sorted({r for s in coupling.sets for r in s.pinned if r is not None})
    return "; ".join(reasons) or "no layer makes units"
