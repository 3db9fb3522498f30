"""Edges of concatenations that are added or removed while sizes are solved.

A concatenation whose inputs change counts as the maker of its output's units (`apart` of `couple`),
so that these are there with the old inputs and with the new ones. Where an input stays, the units
on both sides stay, go and grow together. Those of an input that goes are removed, and as many come
as a new input has. So all that is added to the output, multiplied or normalised follows.

That needs outputs that are free to come and go. Where some are held, as by an output of the model,
the inputs together must have as many units as the output, in the order in which they stand.
"""

from dataclasses import dataclass, field

import keras
import numpy as np

from tfprune.coupling.analysis import couple
from tfprune.coupling.kept_units import NEW, KeptUnits
from tfprune.coupling.labels import FIXED
from tfprune.coupling.rules import rule_of
from tfprune.coupling.rules.joins import Concatenate
from tfprune.coupling.units import unique_in_order
from tfprune.rebuild.dead_calls import without_dead_calls
from tfprune.surgery.edits import Connect, Disconnect, Resize
from tfprune.surgery.inputs import InputList
from tfprune.surgery.lookup import (
    calls_of,
    find_operation,
    graph_outputs,
    only_call,
    operation_at,
    output_units,
)
from tfprune.surgery.size_constraints import SizeConstraint


@dataclass(eq=False)
class Join(InputList):
    """A concatenation whose inputs change.

    Attributes:
        edits: The edits that change it.
        output: The units of its output, which it makes; made known by `units_in`.
        taken: The units of each of `edges`.
        is_free: Whether the units of the output can come and go with those of the inputs.
    """

    edits: list = field(default_factory=list)
    output: np.ndarray = None
    taken: list = None
    is_free: bool = True

    @property
    def axis(self):
        """The axis along which it concatenates."""
        return self.operation.axis % len(self.tensors[0].shape)

    @property
    def ranges(self):
        """The positions of each old input."""
        ends = np.cumsum([0, *(tensor.shape[self.axis] for tensor in self.tensors)])
        return [np.arange(a, b) for a, b in zip(ends[:-1], ends[1:], strict=True)]

    def staying(self):
        """Pairs of the positions of an old input that stays, and its units."""
        pairs = zip(self.edges, self.taken, strict=True)
        return [(self.ranges[edge], units) for edge, units in pairs if isinstance(edge, int)]

    def gone(self):
        """The positions of inputs that go."""
        kept = [self.ranges[edge] for edge in self.edges if isinstance(edge, int)]
        return np.setdiff1d(np.arange(len(self.output)), np.concatenate([[], *kept]))

    def added(self):
        """For each new input the position after which it comes, -1 for the start, and its units."""
        found, before = [], -1
        for edge, units in zip(self.edges, self.taken, strict=True):
            if isinstance(edge, int):
                before = int(self.ranges[edge][-1])
            else:
                found.append((before, units))
        return found


class Joins:
    """The concatenations of a model whose inputs change together with sizes.

    Args:
        model: The model.
        edits: All edits of a plan.

    Attributes:
        free: The operations that are named to be resized, each with the names of the models around
            it. Inputs and outputs of the model change size only if they are among these.
        coupling: The units of the model.
        joins: The `Join`s.
        edits: The edits that are made with them.
    """

    def __init__(self, model, edits):
        self.joins = _changed(model, edits)
        named = [layer for edit in edits if isinstance(edit, Resize) for layer in edit.given]
        self.free = [find_operation(model, layer) for layer in dict.fromkeys(named)]
        self.coupling = self._couple(model)
        for edit in (edit for each in self.joins for edit in each.edits):
            edit.constraints(model, self.coupling, None)  # refuses what cannot be connected
        fitting = [each for each in self.joins if _find_units(each, self.coupling)]
        if len(fitting) < len(self.joins):  # their units stand along other axes
            self.joins = fitting
            self.coupling = self._couple(model)
            for each in self.joins:
                _find_units(each, self.coupling)
        for each in self.joins:
            each.is_free = _is_free(each, self.coupling)
        self.edits = [edit for each in self.joins for edit in each.edits]

    def _couple(self, model):
        apart = [each.operation for each in self.joins]
        return couple(model, apart, free=[operation for _, operation in self.free])

    def __bool__(self):
        return bool(self.joins)

    def hold(self):
        """Makes the inputs share what the outputs have; returns whether some were free of that."""
        were_free = bool(self._free)
        for each in self.joins:
            each.is_free = False
        return were_free

    def taken_by(self, operation):
        """The units that a concatenation takes after the edits, or None if it stays as it is."""
        for each in self.joins:
            if each.operation is operation:
                return np.concatenate(each.taken)
        return None

    def constraints(self):
        """The `SizeConstraint`s under which the inputs fit, as a list."""
        found = []
        for each in self.joins:
            name = f"the inputs of {each.operation.name!r}"
            if each.is_free:
                gone = each.output[each.gone()]
                ones = np.ones(len(gone), int)
                found.append(SizeConstraint(name, gone, ones, 0, hard=True, counts_inserted=False))
            else:
                units = np.concatenate([*each.taken, each.output])
                signs = np.ones(len(units), int)
                signs[len(units) - len(each.output) :] = -1
                found.append(SizeConstraint(name, units, signs, 0, hard=True))
        return [each for each in found if len(each.units)]

    def ties(self):
        """Pairs of units on both sides of the inputs that stay."""
        pairs = [
            np.stack([each.output[positions], units], axis=1)
            for each in self._free
            for positions, units in each.staying()
        ]
        return np.concatenate([np.empty((0, 2), int), *pairs])

    def inserted(self):
        """For each new input a unit beside which its units come, and its units."""
        return [
            (int(each.output[max(before, 0)]), units)
            for each in self._free
            for before, units in each.added()
        ]

    def cheap(self):
        """The units that go with an input and are not those of another one."""
        found = [np.empty(0, int)]
        for each in self._free:
            kept = [each.output[positions] for positions, _ in each.staying()]
            found.append(np.setdiff1d(each.output[each.gone()], np.concatenate([[], *kept])))
        return np.concatenate(found)

    def with_inserted(self, kept_units):
        """`KeptUnits` to which the units that new inputs bring are added."""
        counts, grown = kept_units.counts.copy(), dict(kept_units.grown)
        for each in self._free:
            for before, units in each.added():
                new = (NEW,) * int(kept_units.counts[units].sum())
                beside = int(each.output[max(before, 0)])
                here = grown.get(beside, (beside,) * int(counts[beside]))
                grown[beside] = (*new, *here) if before < 0 else (*here, *new)
                counts[beside] = len(grown[beside])
        return KeptUnits(kept_units.coupling, counts, grown)

    @property
    def _free(self):
        return [each for each in self.joins if each.is_free]

    # The new model ------------------------------------------------------------------------------

    def restructured(self, config, path):
        """The config of the model at a path with the new inputs."""
        changed = [each for each in self.joins if each.path == path]
        for each in changed:
            config = each.connected(config)
        return without_dead_calls(config, {}) if changed else config

    def matched(self, new, kept_units):
        """The `Coupling` of the new model, and pairs of old units or `NEW` and new units."""
        operations = [operation_at(new, each.path, each.operation.name) for each in self.joins]
        free = [operation_at(new, path, operation.name) for path, operation in self.free]
        coupling, made = couple(new, operations, free=free), []
        for each, operation in zip(self.joins, operations, strict=True):
            units = _along(coupling, only_call(coupling, operation).outputs[0], each.axis)
            made.append((kept_units.expanded(unique_in_order(each.output)), unique_in_order(units)))
        for path, operation in self.free:
            if operation in self._inputs:
                units = output_units(coupling, operation_at(new, path, operation.name))
                before = unique_in_order(output_units(self.coupling, operation))
                made.append((kept_units.expanded(before), unique_in_order(units)))
        return coupling, made

    def outputs(self):
        """Operations whose units no layer need make, each with those of its output in order."""
        inputs = [(operation, output_units(self.coupling, operation)) for operation in self._inputs]
        made = [(each.operation, each.output) for each in self.joins]
        return [(operation, unique_in_order(units)) for operation, units in (*made, *inputs)]

    def effects(self, kept_units):
        """The reasons why the new model computes something else, as sentences."""
        found = [
            f"the inputs of {each.operation.name!r} stand at other places of its output"
            for each in self.joins
            if not each.is_free
        ]
        ends = {*self.coupling.trace.inputs, *self.coupling.trace.outputs}
        for _, operation in self.free:
            tensors = [t for c in calls_of(self.coupling, operation) for t in c.outputs]
            tensors += self.coupling.trace.entries.get(id(operation), ())
            if not ends.isdisjoint(tensors):
                before = output_units(self.coupling, operation)
                after = kept_units.expanded(before)
                if len(after) != len(before):
                    found.append(
                        f"{operation.name!r}, an end of the model, has {len(after)} units in place "
                        f"of {len(before)}"
                    )
        return found

    def input_units(self):
        """The units of inputs of the model that may change."""
        units = [output_units(self.coupling, operation) for operation in self._inputs]
        return np.concatenate([np.empty(0, int), *units])

    @property
    def _inputs(self):
        """The inputs of the model that are named."""
        entries, inputs = self.coupling.trace.entries, set(self.coupling.trace.inputs)
        named = [operation for _, operation in self.free]
        return [each for each in named if not inputs.isdisjoint(entries.get(id(each), ()))]


def _changed(model, edits):
    """The `Join`s of edits, without their units.

    Edits of other inputs are checked likewise.
    """
    found = {}
    for edit in edits:
        if not isinstance(edit, (Connect, Disconnect)):
            continue
        path, operation = find_operation(model, edit.target, "target")
        edit.check(model)
        if id(operation) not in found:
            found[id(operation)] = Join.of(model, path, operation)
        join = found[id(operation)]
        change = join.connect if isinstance(edit, Connect) else join.disconnect
        change(model, edit)
        join.edits.append(edit)
    for join in found.values():
        join.check()
    return [each for each in found.values() if _is_concatenation(model, each.path, each.operation)]


def _is_concatenation(model, path, operation):
    """Whether an operation concatenates along an axis of known size, not along samples."""
    if not isinstance(rule_of(operation), Concatenate):
        return False
    shape = graph_outputs(model, path, operation)[0][0].shape
    axis = operation.axis % len(shape)
    return axis != 0 and shape[axis] is not None


def _find_units(join, coupling):
    """Notes the units of the inputs and the output, and returns whether all are along its axis."""
    call, axis = only_call(coupling, join.operation), join.axis
    join.output = _along(coupling, call.outputs[0], axis)
    join.taken = []
    for edge in join.edges:
        is_old = isinstance(edge, int)
        units = (
            _along(coupling, call.inputs[edge], axis) if is_old else _given(coupling, edge, axis)
        )
        join.taken.append(units)
    return join.output is not None and all(units is not None for units in join.taken)


def _given(coupling, operation, axis):
    """The unit of each position along an axis of what an operation gives, as `_along`."""
    if id(operation) in coupling.trace.entries:  # the input of a nested model
        return _along(coupling, coupling.trace.entries[id(operation)][0], axis)
    if isinstance(operation, keras.layers.InputLayer):
        return np.full(operation.batch_shape[axis], FIXED)
    output_units(coupling, operation)  # refuses what has no output in the model
    return _along(coupling, calls_of(coupling, operation)[0].outputs[0], axis)


def _along(coupling, tensor, axis):
    """The unit of each position along an axis of a tensor, None if they differ along others."""
    labels = coupling.tensor_labels[tensor]
    if labels.size != labels.shape[axis - 1]:
        return None
    return np.broadcast_to(coupling.roots[labels.reshape(-1)], (tensor.shape[axis],))


def _is_free(join, coupling):
    """Whether the units of the output can come and go with those of the inputs."""

    def is_held(unit):
        return unit == FIXED or unit in coupling.pins

    for positions, units in join.staying():
        pairs = zip(join.output[positions].tolist(), units.tolist(), strict=True)
        if any(is_held(ours) and not is_held(theirs) for ours, theirs in pairs):
            return False
    moving = join.output[join.gone()].tolist()
    beside = [int(join.output[max(before, 0)]) for before, _ in join.added()]
    if any(map(is_held, [*moving, *beside])) or np.isin(beside, np.concatenate(join.taken)).any():
        return False  # what is held cannot come or go, nor what would make an input larger
    return all(np.count_nonzero(join.output == unit) == 1 for unit in beside)
