"""Units, parameters, bytes or MACs of a model with some of its units, without rebuilding it.

The lengths of all axes follow from the kept units (`AxisLengths`). Elements of weights are products
of lengths. The multiply-accumulates of a call are worked out by the rules that count them for any
model, once for each combination of lengths that occurs.

A call is looked at again only when its lengths have changed, which lets an order of removals be
bisected and a greedy selection be re-evaluated within seconds for a ResNet-50.
"""

import math
from dataclasses import replace

import numpy as np

from tfprune.coupling.costs import costs as costs_of_calls
from tfprune.coupling.kept_units import keeping
from tfprune.coupling.sizes import Sizes
from tfprune.units.budgets import Bytes, MACs, Parameters, Units
from tfprune.units.cost_model import CallMACs
from tfprune.units.selection.axis_lengths import AxisLengths


def costs_for(budget, units):
    """The cost model for a budget: what remains as a function of the kept units.

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
        fixed: The part of the cost that does not depend on units.
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
    """The elements of weights, or their bytes: a term for each weight with units along an axis."""

    def __init__(self, model, coupling, in_bytes=False):
        self._lengths = AxisLengths(coupling)
        by_variable = {}
        for piece in coupling.slices:
            by_variable.setdefault(id(piece.variable), []).append(piece)
        self._axes, constants = [], []
        for variable in {id(weight): weight for weight in model.weights}.values():
            pieces = by_variable.get(id(variable), [])
            along = {piece.axis for piece in pieces}
            rest = math.prod(size for axis, size in enumerate(variable.shape) if axis not in along)
            constant = rest * (np.dtype(variable.dtype).itemsize if in_bytes else 1)
            if pieces:
                self._axes.append([self._lengths.of_slice[id(piece)] for piece in pieces])
                constants.append(constant)
            else:
                self.fixed += constant
        most = max(map(len, self._axes), default=0)
        one = self._lengths.count  # the index of a 1, for weights with fewer axes
        self._indices = np.array([axes + [one] * (most - len(axes)) for axes in self._axes], int)
        self._constants = np.array(constants, np.int64)
        self.dense = self.of(np.ones(coupling.size, bool))

    def terms(self, kept):
        """The elements, or bytes, of each weight."""
        lengths = np.append(self._lengths.of(kept), 1)
        return self._constants * lengths[self._indices].prod(axis=1)

    def depends(self):
        """The units along the axes of each weight."""
        return list(map(self._lengths.units_along, self._axes))


class CostsOfCalls(UnitCosts):
    """The multiply-accumulates for one sample: a term for each call that takes any."""

    def __init__(self, model, coupling, input_shapes=None):
        self._coupling, self._lengths = coupling, AxisLengths(coupling)
        self._calls = CallMACs(model, coupling, input_shapes)
        unknown = [c for c in costs_of_calls(model, input_shapes) if c.macs is None]
        if unknown:
            raise ValueError(
                "A budget of multiply-accumulates needs to know how many each layer takes. "
                f"Received: layer={unknown[0].name!r} ({unknown[0].type}): {unknown[0].reason}. "
                "Give the budget `input_shapes`, or take `Parameters` or `Latency`."
            )
        by_layer = {}
        for piece in coupling.slices:
            by_layer.setdefault(id(piece.layer), []).append(piece)
        self._keys, self._axes = list(self._calls.counted), []
        calls = [call for call, _ in self._calls.counted.values()]
        self._pieces = [by_layer.get(id(call.operation), []) for call in calls]
        self._depends_on = np.zeros((len(calls), self._lengths.count), bool)
        for index, (call, pieces) in enumerate(zip(calls, self._pieces, strict=True)):
            tensors = (*call.inputs, *call.outputs)
            axes = {axis for tensor in tensors for axis in self._lengths.of_tensor[tensor]}
            axes.update(self._lengths.of_slice[id(piece)] for piece in pieces)
            self._axes.append(np.array(sorted(axes), int))
            self._depends_on[index, self._axes[-1]] = True
        self._cache = {}
        self._last = np.full(self._lengths.count, -1), np.zeros(len(calls), np.int64)
        self.dense = self.of(np.ones(coupling.size, bool))

    def terms(self, kept):
        """The multiply-accumulates of each call; those whose lengths changed are counted again."""
        lengths, (before, terms) = self._lengths.of(kept), self._last
        if (before < 0).any():
            touched = range(len(self._keys))
        else:
            touched = np.flatnonzero(self._depends_on[:, lengths != before].any(axis=1)).tolist()
        terms, sizes = terms.copy(), None
        for index in touched:
            key = index, lengths[self._axes[index]].tobytes()
            if key not in self._cache:
                sizes = sizes or self._sizes(touched, kept)
                self._cache[key] = self._calls.macs(self._keys[index], sizes)
            terms[index] = self._cache[key]
        self._last = lengths, terms
        return terms

    def _sizes(self, touched, kept):
        slices = {id(piece): piece for index in touched for piece in self._pieces[index]}
        return Sizes(keeping(replace(self._coupling, slices=tuple(slices.values())), kept))

    def depends(self):
        """The units along the axes of the weights and tensors of each call."""
        return list(map(self._lengths.units_along, self._axes))
