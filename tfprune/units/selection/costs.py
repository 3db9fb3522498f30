"""What a model costs with some of its units, exactly, without rebuilding it.

The lengths of all axes follow from the kept units (`Rows`). Elements of weights are products of
lengths. The multiply-accumulates of a call are worked out by the rules that count them for any
model, once for each combination of lengths that it meets, and only for calls whose lengths changed.
That is fast enough to bisect a ranking, or to re-evaluate a greedy selection, of a ResNet-50 within
seconds.
"""

import math
from dataclasses import replace

import numpy as np

from tfprune.coupling.costs import costs as costs_of_calls
from tfprune.coupling.kept_units import keeping
from tfprune.rebuild.engine import Sizes
from tfprune.units.budgets import Bytes, MACs, Parameters, Units
from tfprune.units.cost_model import CountedCalls
from tfprune.units.selection.axis_lengths import Rows


def costs_for(budget, units):
    """What counts the cost that a budget is about.

    Args:
        budget: `Units`, `Parameters`, `MACs` or `Bytes` of `tfprune.budgets`.
        units: `PrunableUnits`.

    Returns:
        `UnitCosts`.

    Raises:
        ValueError: If multiply-accumulates of the model are not known.

    Example:

    >>> import keras
    >>> import tfprune
    >>> from tfprune.units.prunable import PrunableUnits
    >>> model = keras.Sequential([
    ...     keras.Input((3,)), tfprune.layers.Dense(4, name="hidden"), tfprune.layers.Dense(2)])
    >>> units = PrunableUnits(model)
    >>> costs, kept = costs_for(Parameters(0.5), units), np.ones(units.coupling.size, bool)
    >>> kept[units.sets[0].units[:3]] = False  # one unit of four is left
    >>> costs.dense, costs.of(kept)
    (26, 8)
    """
    if isinstance(budget, Units):
        return CountsOfUnits(units)
    if isinstance(budget, MACs):
        return CostsOfCalls(units.model, units.coupling, budget.input_shapes)
    is_bytes = isinstance(budget, Bytes)
    assert is_bytes or isinstance(budget, Parameters), budget
    return CostsOfWeights(units.model, units.coupling, is_bytes)


class UnitCosts:
    """A cost as a sum of terms, each of which depends on some of the units.

    Attributes:
        fixed: What does not depend on units.
        dense: The cost with all units.
    """

    fixed = 0

    def of(self, kept):
        """The cost when the units are kept for which a boolean array over units is True."""
        return self.fixed + int(self.terms(kept).sum())

    def terms(self, kept):
        """The terms, an array of integers."""
        raise NotImplementedError

    def depends(self):
        """For each term an array of the units that it depends on."""
        raise NotImplementedError


class CountsOfUnits(UnitCosts):
    """How many of the units that may be pruned are kept: a term for each set."""

    def __init__(self, units):
        self._sets = [unit_set.units for unit_set in units.sets]
        self.dense = sum(map(len, self._sets))

    def terms(self, kept):
        """How many units of each set are kept."""
        return np.array([kept[units].sum() for units in self._sets])

    def depends(self):
        """The units of each set."""
        return self._sets


class CostsOfWeights(UnitCosts):
    """The elements of weights, or their bytes: a term for each weight in which units stand."""

    def __init__(self, model, coupling, in_bytes=False):
        self._coupling, self._rows = coupling, Rows(coupling)
        self._one = self._rows.matrix.shape[0]  # the place of a 1, for axes that do not change
        by_variable = {}
        for piece in coupling.slices:
            by_variable.setdefault(id(piece.variable), []).append(piece)
        self._uneven, places, constants = [], [], []
        for variable in {id(weight): weight for weight in model.weights}.values():
            each = np.dtype(variable.dtype).itemsize if in_bytes else 1
            pieces = by_variable.get(id(variable), [])
            along = {piece.axis for piece in pieces}
            rest = (size for axis, size in enumerate(variable.shape) if axis not in along)
            if pieces:
                places.append(list(map(self._place, pieces)))
                constants.append(each * math.prod(rest))
            else:
                self.fixed += each * math.prod(rest)
        most = max(map(len, places), default=0)
        padded = [row + [self._one] * (most - len(row)) for row in places]
        self._places, self._constants = np.array(padded, int), np.array(constants, np.int64)
        self.dense = self.of(np.ones(coupling.size, bool))

    def _place(self, piece):
        if np.ndim(piece.labels) == 1:
            return self._rows.of_piece[id(piece)]
        self._uneven.append(UnevenAxis(self._coupling, piece))
        return self._one + len(self._uneven)

    def terms(self, kept):
        """The elements, or bytes, of each weight."""
        uneven = [axis.of(kept) for axis in self._uneven]
        lengths = np.concatenate([self._rows.of(kept), [1], np.array(uneven, np.int64)])
        return self._constants * lengths[self._places].prod(axis=1)

    def depends(self):
        """The units that stand in each weight."""
        matrix, found = self._rows.matrix, []
        for places in self._places:
            units = [
                matrix.indices[slice(*matrix.indptr[p : p + 2])] for p in places if p < self._one
            ]
            units += [self._uneven[p - self._one - 1].units for p in places if p > self._one]
            found.append(np.unique(np.concatenate(units)))
        return found


class UnevenAxis:
    """An axis of a weight along which other units stand for each index of other axes.

    These are the input channels of a grouped convolution, which differ from group to group of
    filters. All groups that stay keep equally many.
    """

    def __init__(self, coupling, piece):
        self._units, self._axis = coupling.roots[piece.labels], piece.axis
        self.units = np.unique(self._units)

    def of(self, kept):
        """How long it is: as in any group that stays, and one that goes has nothing along it."""
        return int(kept[self._units].sum(axis=self._axis).max(initial=0))


class CostsOfCalls(UnitCosts):
    """The multiply-accumulates for one sample: a term for each call that takes any."""

    def __init__(self, model, coupling, input_shapes=None):
        self._coupling, self._rows = coupling, Rows(coupling)
        self._calls = CountedCalls(model, coupling, input_shapes)
        unknown = [c for c in costs_of_calls(model, input_shapes) if c.macs is None]
        if unknown:
            raise ValueError(
                "A budget of multiply-accumulates needs to know how many each layer takes. "
                f"Received: layer={unknown[0].name!r} ({unknown[0].type}): {unknown[0].reason}. "
                "Give the budget `input_shapes`, or take `Parameters` or `Latency`."
            )
        of_layer = {}
        for piece in coupling.slices:
            of_layer.setdefault(id(piece.layer), []).append(piece)
        self._keys, self._uneven, lengths = list(self._calls.counted), [], []
        calls = [call for call, _ in self._calls.counted.values()]
        self._pieces = [of_layer.get(id(call.operation), []) for call in calls]
        for call, pieces in zip(calls, self._pieces, strict=True):
            rows = {row for t in (*call.inputs, *call.outputs) for row in self._rows.of_tensor[t]}
            rows.update(map(self._place, pieces))
            lengths.append(np.array(sorted(rows), int))
        self._lengths = lengths
        count = self._rows.matrix.shape[0] + len(self._uneven)
        self._reads = np.zeros((len(calls), count), bool)
        for place, rows in enumerate(lengths):
            self._reads[place, rows] = True
        self._found = {}
        self._last = np.full(count, -1), np.zeros(len(calls), np.int64)
        self.dense = self.of(np.ones(coupling.size, bool))

    def _place(self, piece):
        if np.ndim(piece.labels) == 1:
            return self._rows.of_piece[id(piece)]
        self._uneven.append(UnevenAxis(self._coupling, piece))
        return self._rows.matrix.shape[0] + len(self._uneven) - 1

    def terms(self, kept):
        """The multiply-accumulates of each call; those whose lengths changed are counted anew."""
        uneven = np.array([axis.of(kept) for axis in self._uneven], np.int64)
        lengths, (before, terms) = np.concatenate([self._rows.of(kept), uneven]), self._last
        if (before < 0).any():
            touched = range(len(self._keys))
        else:
            touched = np.flatnonzero(self._reads[:, lengths != before].any(axis=1)).tolist()
        terms, sizes = terms.copy(), None
        for place in touched:
            met = place, lengths[self._lengths[place]].tobytes()
            if met not in self._found:
                sizes = sizes or self._sizes(touched, kept)
                self._found[met] = self._calls.macs(self._keys[place], sizes)
            terms[place] = self._found[met]
        self._last = lengths, terms
        return terms

    def _sizes(self, touched, kept):
        slices = {id(piece): piece for place in touched for piece in self._pieces[place]}
        return Sizes(keeping(replace(self._coupling, slices=tuple(slices.values())), kept))

    def depends(self):
        """The units that stand in the weights and tensors of each call."""
        matrix, count, found = self._rows.matrix, self._rows.matrix.shape[0], []
        for rows in self._lengths:
            units = [matrix.indices[slice(*matrix.indptr[r : r + 2])] for r in rows if r < count]
            units += [self._uneven[r - count].units for r in rows if r >= count]
            found.append(np.unique(np.concatenate([np.empty(0, int), *units])))
        return found
