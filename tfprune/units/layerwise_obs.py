"""Layer-wise optimal brain surgeon for the units of a model: prices, and the fit afterwards."""

import keras
import numpy as np
import scipy.linalg
import tensorflow as tf

from tfprune import _keras
from tfprune._tools.isotonic import rising
from tfprune.criteria.consumer_moments import Removal, measure_consumers
from tfprune.criteria.second_moments import Use, weight_uses
from tfprune.criteria.unit_slices import roles
from tfprune.criteria.weight_uses import moved
from tfprune.units.consumer_updates import ConsumerUpdates, centred
from tfprune.units.removal_order import UnitRows, removal_order

MOST_INPUTS = 2**13
"""The most inputs of a matrix that is fitted; of larger ones the change of outputs is measured."""

MOST_BYTES = 2**30
"""About how much memory the sums take that are measured in one pass over the data."""


class LayerwisePrices:
    """Measures the layers that use units, and works out what units cost.

    Args:
        units: `PrunableUnits`.
        criterion: `tfprune.criteria.LayerwiseOBS`.
        data, verbose: See `tfprune.criteria.measuring.measure`.

    Raises:
        ValueError: If there is no data.
    """

    def __init__(self, units, criterion, data, verbose=0):
        if data is None:
            raise ValueError(
                "The criterion 'layerwise_obs' measures the inputs of layers on data. Received: "
                "data=None. Pass `data=(x,)`, `(x, y)` or a dataset; labels are not needed."
            )
        self.units, self.criterion, self.data, self.verbose = units, criterion, data, verbose
        self._roots = units.coupling.roots
        self.using = [
            piece
            for piece in units.coupling.slices
            if piece.uses and _keras.is_guarded(piece.variable)
        ]
        self._uses = {}
        self._last = None

    def of(self, sets_by_index):
        """The prices of some sets of units by index, an array over the units of each."""
        found = {}
        for chunk in self._chunks(sets_by_index):
            measured = self._measured(chunk)
            for index, unit_set in chunk.items():
                found[index] = self._prices(unit_set, measured)
        return found

    def updates(self, dead):
        """The `ConsumerUpdates` of all layers that lose inputs when units go.

        Args:
            dead: Boolean array over all units of the coupling.
        """
        removed = dead & ~self.units.pruned()
        sets = {i: s for i, s in enumerate(self.units.coupling.sets) if removed[s.units].any()}
        updates = ConsumerUpdates(self.units)
        for chunk in self._chunks(sets):
            updates.add(self._measured(chunk).consumers, dead, self.criterion.damping)
        return updates

    def _chunks(self, sets_by_index):
        """Sets by index, in portions whose sums take no more memory than they should."""
        chunks, known, size = [{}], set(), 0
        for index, unit_set in sets_by_index.items():
            variables = {id(p.variable): p.variable for p in self.pieces(unit_set)}
            new = sum(_bytes(v) for key, v in variables.items() if key not in known)
            if chunks[-1] and size + new > MOST_BYTES:
                chunks.append({})
                known, size = set(), 0
                new = sum(map(_bytes, variables.values()))
            chunks[-1][index] = unit_set
            known.update(variables)
            size += new
        return chunks

    def pieces(self, unit_set):
        """The slices of weights that use units of a set."""
        member = np.zeros(self.units.coupling.size, bool)
        member[unit_set.units] = True
        return [piece for piece in self.using if member[self._roots[piece.labels]].any()]

    def _measured(self, sets_by_index):
        """What was measured for some sets; the last time's where it holds all of it."""
        if self._last is None or not self._last.sets.keys() >= sets_by_index.keys():
            self._last = _Measured(self, sets_by_index)
        return self._last

    def uses_of(self, variables):
        """The `Use` of each of some variables, seen on a few examples."""
        new = [v for v in variables if id(v) not in self._uses]
        if new:
            sample = _few(self.data)
            for variable, use in zip(new, weight_uses(self.units.model, new, sample), strict=True):
                if max((matrix.rows for matrix in use.matrices), default=0) > MOST_INPUTS:
                    use = Use(use.place, problem="it has too many inputs")
                self._uses[id(variable)] = use
        return [self._uses[id(variable)] for variable in variables]

    def _prices(self, unit_set, measured):
        """The price of each unit of a set when its turn comes."""
        place = np.full(self.units.coupling.size, -1)
        place[unit_set.units] = np.arange(len(unit_set.units))
        pruned = self.units.pruned()
        matrices, inverses = [], {}
        for consumer in measured.consumers:
            numbers = place[consumer.units]
            numbers[pruned[consumer.units]] = -1
            for group, number in enumerate(numbers):
                rows = np.flatnonzero(number >= 0)
                if not len(rows):
                    continue
                key = consumer.moments.matrix.inputs, consumer.has_bias, group
                if key not in inverses:
                    gram = centred(consumer, group, self.criterion.damping)
                    inverses[key] = scipy.linalg.inv(gram)
                weights = _weighted(consumer.weights()[group][rows], consumer.moments.effect[group])
                inverse = inverses[key][np.ix_(rows, rows)]
                matrices.append(UnitRows(inverse, weights, number[rows]))
        others = np.zeros(len(unit_set.units))
        for members, changes in measured.changes:
            ours = place[members] >= 0
            others[place[members[ours]]] += changes[ours]
        may_go = np.array([reason is None for reason in unit_set.pinned])
        may_go &= ~pruned[unit_set.units] & ~self.units.frozen()[unit_set.units]
        order, prices = removal_order(may_go, matrices, others, self.criterion.aggregate)
        found = np.zeros(len(unit_set.units))
        found[order] = rising(prices)
        found[~may_go & ~pruned[unit_set.units]] = found.max(initial=0.0)
        return found


class Consumed:
    """A matrix that multiplies units, with what was measured of it.

    Attributes:
        piece: The `Slice` that says which units.
        moments: A `tfprune.criteria.consumer_moments.Consumer`.
        units: Integer array (groups, rows), the unit of each row.
        has_bias: Whether a bias, or the mean of a norm, makes up for the mean of the inputs.
    """

    def __init__(self, piece, moments, units, has_bias):
        self.piece, self.moments, self.units, self.has_bias = piece, moments, units, has_bias

    def weights(self):
        """The matrix, (groups, rows, outputs)."""
        value = np.asarray(self.piece.variable, "float64")
        return moved(value, self.moments.matrix.steps)


class _Measured:
    """The matrices that use units of some sets, and how outputs change without other weights.

    Attributes:
        sets: The sets by index.
        consumers: A list of `Consumed`.
        changes: Pairs of units, and an array of how much outputs change without each.
    """

    def __init__(self, prices, sets_by_index):
        self.sets = sets_by_index
        units, roots = prices.units, prices.units.coupling.roots
        touched = [p for s in sets_by_index.values() for p in prices.pieces(s)]
        variables = {id(p.variable): p.variable for p in touched}
        pieces = {id(p): p for p in prices.using if id(p.variable) in variables}
        uses = dict(zip(variables, prices.uses_of(list(variables.values())), strict=True))
        rows, left = [], []
        for piece in pieces.values():
            found = _rows_of(piece, uses[id(piece.variable)], roots)
            rows += [(piece, number, units_at) for number, units_at in enumerate(found or ())]
            left += [] if found else [piece]
        wanted = {id(piece.variable): piece.variable for piece, _, _ in rows}
        members, removals = _removals(prices, sets_by_index, left)
        moments, changes = [], []
        if wanted or removals:
            moments, changes = measure_consumers(
                units.model,
                list(wanted.values()),
                [uses[key] for key in wanted],
                removals,
                prices.data,
                prices.verbose,
            )
        moments = dict(zip(wanted, moments, strict=True))
        self.changes = list(zip(members, changes, strict=True))
        biased = ConsumerUpdates.biased(units)
        self.consumers = [
            Consumed(
                piece, moments[id(piece.variable)][number], units_at, id(piece.variable) in biased
            )
            for piece, number, units_at in rows
        ]
        effects = [consumer.moments.effect for consumer in self.consumers]
        if not any(each.any() for each in (*effects, *changes)):
            raise ValueError(
                "The criterion 'layerwise_obs' measures by gradients what layers do to the outputs "
                "of the model, and found none. Received: "
                f"model={units.model.name!r}, layers={[s.name for s in sets_by_index.values()]}. "
                "Take a criterion of weights or activations ('magnitude', 'activation_variance')."
            )


def _rows_of(piece, use, roots):
    """For each matrix of a weight the unit of each row; None where units are not along the rows."""
    if use.problem is not None:
        return None
    units = piece.broadcast(roots[piece.labels])
    found = []
    for matrix in use.matrices:
        of_rows = moved(units, matrix.steps)
        if (of_rows != of_rows[..., :1]).any():
            return None
        found.append(of_rows[..., 0])
    return found


def _removals(prices, sets_by_index, left):
    """Units, and the `Removal`s of those weights of each layer that are not fitted.

    Units that no weight uses are removed where they are made.
    """
    roots = prices.units.coupling.roots
    wanted = np.zeros(prices.units.coupling.size, bool)
    for unit_set in sets_by_index.values():
        wanted[unit_set.units] = True
    is_used = np.zeros(len(wanted), bool)
    for piece in prices.using:
        is_used[roots[piece.labels]] = True
    by_layer = {}
    for piece in left:
        by_layer.setdefault(id(piece.layer), (wanted, []))[1].append(piece)
    role_of = roles(prices.units.coupling)
    for index, unit_set in sets_by_index.items():
        unused = np.zeros(len(wanted), bool)
        unused[unit_set.units] = ~is_used[unit_set.units]
        if unused.any():
            made = [
                piece
                for piece in prices.units.coupling.slices
                if piece.layer is unit_set.layers[0]
                and piece.family == unit_set.families[0]
                and role_of.get(id(piece)) == "makers"
                and _keras.is_guarded(piece.variable)
            ]
            by_layer[index, "made"] = unused, made
    members, removals = [], []
    for selected, pieces in by_layer.values():
        units = [np.unique(roots[piece.labels]) for piece in pieces]
        units = np.unique(np.concatenate([np.empty(0, int), *units]))
        units = units[selected[units]]
        numbers = np.full(len(wanted), len(units))
        numbers[units] = np.arange(len(units))
        arrays = [(p.variable, numbers[p.broadcast(roots[p.labels])]) for p in pieces]
        members.append(units)
        removals.append(Removal(tuple(arrays), len(units)))
    return members, removals


def _weighted(weights, effect):
    """Weights whose squares add up to the error of the model's outputs."""
    if effect.ndim == 1:
        return weights * np.sqrt(effect)
    values, vectors = np.linalg.eigh(effect)
    return weights @ (vectors * np.sqrt(np.maximum(values, 0)))


def _bytes(variable):
    """About the memory of the products of a weight's inputs."""
    rows = min(int(np.prod(variable.shape[:-1])), MOST_INPUTS)
    return 8 * rows**2


def _few(data):
    """A few examples of data, to see which way they take through the model."""
    if isinstance(data, (tuple, list)):
        return keras.tree.map_structure(_first_two, tuple(data))
    if isinstance(data, tf.data.Dataset):
        return data.take(1)
    return data


def _first_two(array):
    return None if array is None else array[:2]
