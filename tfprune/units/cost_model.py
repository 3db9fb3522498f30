"""What goes when a unit goes: parameters and multiply-accumulates, without rebuilding.

The shapes of weights and tensors follow from the kept units, and the rules that count MACs need
no more than shapes: they are given a stand-in for the layer that has the new ones. Units that stand
in the same places save the same, so one of each kind is worked out; and only the calls that it
touches are counted again.
"""

import math
from dataclasses import dataclass, replace

import keras
import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from tfprune.coupling.costs import macs_of_call, sized_calls
from tfprune.coupling.kept_units import keeping
from tfprune.coupling.labels import FIXED
from tfprune.coupling.rules import rule_of
from tfprune.coupling.shapes import shapes_of, sized_inputs
from tfprune.rebuild.engine import Sizes


@dataclass(frozen=True)
class RemovalSaving:
    """What one removal saves.

    Attributes:
        units: The units that go: one, or as few as the constraints of groups allow.
        parameters: The elements of weights that go with them.
        macs: The multiply-accumulates for one sample, None if they are not known.
        like: How many removals of this set save the same.
    """

    units: tuple
    parameters: int
    macs: int | None
    like: int


def removal_savings(model, coupling, input_shapes=None):
    """What the removal of one unit saves, for each set of coupled units.

    Args:
        model: The model.
        coupling: Its units, from `tfprune.coupling.couple(model)`.
        input_shapes: The sizes to take for dynamic dimensions, as in `tfprune.coupling.costs`.

    Returns:
        A list with a tuple of `RemovalSaving` for each set, one for each kind of unit that may go. It is
        empty where all are pinned or none can be spared.

    Example:

    >>> from tfprune.coupling import couple
    >>> model = keras.Sequential([
    ...     keras.Input((3,)), keras.layers.Dense(4, name="hidden"), keras.layers.Dense(2)])
    >>> hidden, outputs = removal_savings(model, couple(model))
    >>> hidden[0].parameters, hidden[0].macs, outputs
    (6, 5, ())
    """
    calls = CountedCalls(model, coupling, input_shapes)
    pieces, tensors = coupling.slices, tuple(coupling.tensor_labels)
    arrays = [p.labels for p in pieces] + [coupling.tensor_labels[tensor] for tensor in tensors]
    standing = incidence(coupling, arrays)
    # Two kinds of units have the same number by chance in one of 2**64 cases.
    marks = standing @ np.random.default_rng(0).integers(2**63, size=len(arrays), dtype=np.uint64)

    def saving(units, like):
        places = np.unique(standing[units].indices)
        touched = [pieces[place] for place in places[places < len(pieces)]]
        kept = np.ones(coupling.size, bool)
        kept[units] = False
        sizes = Sizes(keeping(replace(coupling, slices=tuple(touched)), kept))
        variables = {id(piece.variable): piece.variable for piece in touched}.values()
        after = [sizes.of_weight(variable) for variable in variables]
        if any(0 in shape for shape in after):
            return None
        before = sum(math.prod(variable.shape) for variable in variables)
        return RemovalSaving(
            units=tuple(units.tolist()),
            parameters=before - sum(map(math.prod, after)),
            macs=calls.macs_less(
                [piece.layer for piece in touched],
                [tensors[place - len(pieces)] for place in places[places >= len(pieces)]],
                sizes,
            ),
            like=like,
        )

    found = []
    for removals in removals_by_set(coupling):
        kinds = {}
        for units in removals:
            kinds.setdefault((len(units), int(marks[units].sum())), []).append(units)
        every = [saving(same[0], len(same)) for same in kinds.values()]
        found.append(tuple(one for one in every if one is not None))
    return found


def removals_by_set(coupling):
    """What may go at once: for each set of units a list of arrays, one for each removal.

    Mostly a removal is one unit. Where groups must keep equal counts it is one of each group; where
    a group has a single unit on one side, the group. It may hold units of other sets then.
    """
    edges = [np.empty((2, 0), int)]
    for grouping in coupling.groupings:
        sides = [coupling.roots[side] for side in grouping.sides]
        goes_whole = grouping.whole and any(side.shape[1] == 1 for side in sides)
        for side in [np.concatenate(sides, axis=1).T] if goes_whole else sides:
            first = np.broadcast_to(side[0], side.shape)
            edges.append(np.stack([first.reshape(-1), side.reshape(-1)]))
    ones, edges = np.ones(sum(e.shape[1] for e in edges), bool), np.concatenate(edges, axis=1)
    graph = csr_array((ones, tuple(edges)), shape=(coupling.size, coupling.size))
    group_of = connected_components(graph, directed=False)[1]
    held = np.isin(group_of, group_of[[FIXED, *coupling.pins]])
    by_group = np.argsort(group_of, kind="stable")
    starts = np.searchsorted(group_of[by_group], np.arange(group_of.max() + 2))
    return [
        [
            by_group[starts[group] : starts[group + 1]]
            for group in dict.fromkeys(group_of[unit_set.units[~held[unit_set.units]]].tolist())
        ]
        for unit_set in coupling.sets
    ]


def incidence(coupling, arrays):
    """How often each unit stands in each array of labels: a matrix (units, arrays)."""
    units = [coupling.roots[array].reshape(-1) for array in arrays]
    columns = np.repeat(np.arange(len(arrays)), [len(column) for column in units])
    units = np.concatenate(units) if units else columns
    ones = np.ones(len(units), np.uint64)
    return csr_array((ones, (units, columns)), shape=(coupling.size, len(arrays)))


class CountedCalls:
    """The calls of a model with the MACs they take, to be counted again for other sizes.

    Attributes:
        counted: For each call that takes any, by id, the call and its MACs.
    """

    def __init__(self, model, coupling, input_shapes):
        self.counted = {}
        self._by_tensor = {}
        self._by_layer = {}
        self._known = {
            tensor: (tensor.shape[0] or 1, *shape)
            for tensor, shape in zip(
                coupling.trace.inputs, sized_inputs(model, input_shapes), strict=True
            )
        }
        walked = sized_calls(model, input_shapes)
        for call, (_, shapes, self._batch) in zip(coupling.trace.calls, walked, strict=True):
            self._known.update(zip(call.outputs, shapes.outputs, strict=True))
            macs, _ = macs_of_call(call.operation, shapes, self._batch)
            if macs == 0:  # and so it stays
                continue
            self.counted[id(call)] = (call, macs)
            self._by_layer.setdefault(id(call.operation), []).append(id(call))
            for tensor in (*call.inputs, *call.outputs):
                self._by_tensor.setdefault(tensor, []).append(id(call))

    def macs_less(self, layers, tensors, sizes):
        """The MACs that go when layers and tensors get the sizes, None if not known."""
        touched = [key for layer in layers for key in self._by_layer.get(id(layer), [])]
        touched += [key for tensor in tensors for key in self._by_tensor.get(tensor, [])]
        changed, less = set(tensors), 0
        for key in dict.fromkeys(touched):
            before, after = self.counted[key][1], self.macs(key, sizes, changed)
            if before is None or after is None:
                return None
            less += before - after
        return less

    def macs(self, key, sizes, changed=None):
        """The MACs of a call when weights get the sizes, and tensors, or those of `changed`."""
        call = self.counted[key][0]

        def size(tensor):
            labels, now = sizes.coupling.tensor_labels[tensor], self._known[tensor]
            is_changed = changed is None or tensor in changed
            after = sizes.of_tensor(tensor)[1:] if is_changed else now[1:]
            changes = zip(labels.shape, now[1:], after, strict=True)
            return (now[0], *(b if along != 1 else a for along, a, b in changes))

        return macs_of_call(_resized(call, sizes), shapes_of(call, size), self._batch)[0]


def _resized(call, sizes):
    """What stands in for the operation of a call when its weights have other sizes."""
    if not isinstance(call.operation, keras.layers.Layer):
        return call.operation
    config = call.operation.get_config()
    rule_of(call.operation).resize(config, call, sizes)
    return _Resized(call.operation, config, sizes)


class _Resized:
    """A layer as the rules that count MACs see it: the shapes of its weights, its arguments."""

    def __init__(self, layer, config, sizes):
        self._layer = layer
        self._config = config
        self._sizes = sizes

    @property
    def __class__(self):
        """The class of the layer, so that the same rule counts it."""
        return self._layer.__class__

    def __getattr__(self, name):
        argument = self._config.get(name)
        if isinstance(argument, int):
            return argument
        config = argument["config"] if isinstance(argument, dict) and "config" in argument else {}
        return self._of(getattr(self._layer, name), config)

    def _of(self, value, config):
        if isinstance(value, keras.Variable):
            return _Shaped(self._sizes.of_weight(value))
        if isinstance(value, keras.layers.Layer):
            return _Resized(value, config, self._sizes)
        if isinstance(value, list):
            return [self._of(item, {}) for item in value]
        return value


@dataclass(frozen=True)
class _Shaped:
    shape: tuple
