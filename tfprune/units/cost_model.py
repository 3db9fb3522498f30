"""Cost model of removals: the parameters and multiply-accumulates that one removal saves.

Nothing is rebuilt: the shapes of weights and tensors follow from the kept units, and the rules that
count MACs need no more than shapes. Units that occur in the same slices and tensors are equivalent
and save the same, so one of each equivalence class is evaluated, and only the calls that it touches
are counted again.
"""

import inspect
import math
from dataclasses import dataclass, replace

import keras
import numpy as np

from tfprune.coupling.costs import macs_of_call, sized_calls
from tfprune.coupling.kept_units import keeping
from tfprune.coupling.labels import FIXED
from tfprune.coupling.rules import rule_of
from tfprune.coupling.shapes import shapes_of, sized_inputs
from tfprune.coupling.sizes import Sizes
from tfprune.units.incidence import incidence, row_hashes, tied_by_columns


@dataclass(frozen=True)
class RemovalSaving:
    """The cost that one removal saves.

    Attributes:
        units: The units removed: one, or as few as the constraints of groups allow.
        parameters: The elements of weights removed with them.
        macs: The multiply-accumulates saved for one sample, None if they are not known.
    """

    units: tuple
    parameters: int
    macs: int | None


def removal_savings(model, coupling, input_shapes=None):
    """The parameters and MACs that the removal of one unit saves, for each set of coupled units.

    Args:
        model: The model.
        coupling: Its units, from `tfprune.coupling.couple(model)`.
        input_shapes: The sizes to take for dynamic dimensions, as in `tfprune.coupling.costs`.

    Returns:
        A list with a tuple of `RemovalSaving` for each set, one for each equivalence class of units
        that can be removed. It is empty where all are pinned or none can be spared.

    Example:

    >>> from tfprune.coupling import couple
    >>> model = keras.Sequential([
    ...     keras.Input((3,)), keras.layers.Dense(4, name="hidden"), keras.layers.Dense(2)])
    >>> hidden, outputs = removal_savings(model, couple(model))
    >>> hidden[0].parameters, hidden[0].macs, outputs
    (6, 5, ())
    """
    return [
        tuple({id(saving): saving for _, saving in found if saving is not None}.values())
        for found in savings_of_removals(model, coupling, input_shapes)
    ]


def savings_of_removals(model, coupling, input_shapes=None):
    """What each of the smallest removals saves, for each set of coupled units.

    Args:
        model, coupling, input_shapes: See `removal_savings`.

    Returns:
        A list for each set of pairs: an array of the units that go at once, as in
        `removals_by_set`, and the `RemovalSaving` of its equivalence class, None where it would
        leave a weight without elements.
    """
    calls = CallMACs(model, coupling, input_shapes)
    pieces, tensors = coupling.slices, tuple(coupling.tensor_labels)
    occurrences = incidence(coupling)
    hashes = row_hashes(occurrences)

    def saving(units):
        columns = np.unique(occurrences[units].indices)
        touched = [pieces[column] for column in columns[columns < len(pieces)]]
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
            macs=calls.macs_saved(
                [piece.layer for piece in touched],
                [tensors[column - len(pieces)] for column in columns[columns >= len(pieces)]],
                sizes,
            ),
        )

    found = []
    for removals in removals_by_set(coupling):
        classes, pairs = {}, []
        for units in removals:
            key = len(units), int(hashes[units].sum())
            if key not in classes:
                classes[key] = saving(units)
            pairs.append((units, classes[key]))
        found.append(pairs)
    return found


def removals_by_set(coupling):
    """The smallest removals that are possible: for each set of units a list of arrays of units.

    Mostly a removal is one unit. Where groups must keep equal counts it is one of each group; where
    a group has a single unit on one side, the whole group. It may hold units of other sets then.
    """
    tied = []
    for grouping in coupling.groupings:
        sides = [coupling.roots[side] for side in grouping.sides]
        goes_whole = grouping.whole and any(side.shape[1] == 1 for side in sides)
        tied += [np.concatenate(sides, axis=1).T] if goes_whole else sides
    group_of = tied_by_columns(tied, coupling.size)
    pinned = np.isin(group_of, group_of[[FIXED, *coupling.pins]])
    by_group = np.argsort(group_of, kind="stable")
    starts = np.searchsorted(group_of[by_group], np.arange(group_of.max() + 2))
    return [
        [
            by_group[starts[group] : starts[group + 1]]
            for group in dict.fromkeys(group_of[unit_set.units[~pinned[unit_set.units]]].tolist())
        ]
        for unit_set in coupling.sets
    ]


class CallMACs:
    """The MACs of each call of a model, and those it would take with other sizes.

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
        walked = sized_calls(coupling.trace, model, input_shapes)
        for call, (_, shapes, self._batch) in zip(coupling.trace.calls, walked, strict=True):
            self._known.update(zip(call.outputs, shapes.outputs, strict=True))
            macs, _ = macs_of_call(call.operation, shapes, self._batch)
            if macs == 0:  # and so it stays
                continue
            self.counted[id(call)] = (call, macs)
            self._by_layer.setdefault(id(call.operation), []).append(id(call))
            for tensor in (*call.inputs, *call.outputs):
                self._by_tensor.setdefault(tensor, []).append(id(call))

    def macs_saved(self, layers, tensors, sizes):
        """The MACs saved when layers and tensors get the sizes, None if not known."""
        touched = [key for layer in layers for key in self._by_layer.get(id(layer), [])]
        touched += [key for tensor in tensors for key in self._by_tensor.get(tensor, [])]
        changed, saved = set(tensors), 0
        for key in dict.fromkeys(touched):
            before = self.counted[key][1]
            after = None if before is None else self.macs(key, sizes, changed)
            if after is None:
                return None
            saved += before - after
        return saved

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
    """A stand-in for the operation of a call, with weights of other sizes."""
    if not isinstance(call.operation, keras.layers.Layer):
        return call.operation
    config = _config_of(call.operation)
    rule_of(call.operation).resize(config, call, sizes)
    return _ResizedLayer(call.operation, config, sizes)


def _config_of(layer):
    """The arguments of a layer, out of its attributes where they hold what has no config."""
    try:
        return layer.get_config()
    except Exception:  # of a regularizer of the user's, which can fail in any way
        makers = [vars(cls).get("__init__") for cls in type(layer).__mro__[:-1]]
        names = {name for maker in makers if maker for name in inspect.signature(maker).parameters}
        return {name: getattr(layer, name) for name in names if hasattr(layer, name)}


class _ResizedLayer:
    """A layer as the rules that count MACs need it: the shapes of its weights, its arguments."""

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
            return _ShapedWeight(self._sizes.of_weight(value))
        if isinstance(value, keras.layers.Layer):
            return _ResizedLayer(value, config, self._sizes)
        if isinstance(value, list):
            return [self._of(item, {}) for item in value]
        return value


@dataclass(frozen=True)
class _ShapedWeight:
    shape: tuple
