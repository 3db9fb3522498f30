"""Adds inputs to, or removes them from, operations that take a list of tensors.

A concatenation that gains or loses an input counts as the maker of its output's units, before and
after the edit. So the layers after it find the rows of their kernels again.
"""

from dataclasses import dataclass

import keras
import numpy as np

from tfprune import _keras
from tfprune._tools.checks import check_integer
from tfprune.coupling.analysis import couple
from tfprune.coupling.kept_units import NEW
from tfprune.coupling.rules import rule_of
from tfprune.coupling.rules.joins import Concatenate
from tfprune.surgery.edits.base import Edit
from tfprune.surgery.growth import uses_without_weights
from tfprune.surgery.lookup import (
    calls_of,
    find_operation,
    graph_outputs,
    model_at,
    only_call,
    output_units,
    units_along,
)
from tfprune.surgery.size_constraints import check_fit, equal_counts, fitted


@dataclass(frozen=True)
class Connect(Edit):
    """Adds an input to an operation, see `tfprune.surgery.connect`."""

    source: str
    target: str
    position: int | None = None
    fit: str | None = None

    def check(self, model):
        check_fit(self.fit)
        _check_index(self.position)
        path, _ = find_operation(model, self.source, "source")
        target_path, target = find_operation(model, self.target, "target")
        if path != target_path:
            raise ValueError(
                "Layers of different models in the model cannot be connected. "
                f"Received: source={self.source!r}, target={self.target!r}."
            )
        _check_list(model, path, target, "target")

    def constraints(self, model, coupling, joins):
        call, ours, theirs = self._ends(model, coupling)
        name = f"{self.source!r} and {self.target!r}, to connect them"
        if not is_concatenation(call):
            return equal_counts(name, ours, theirs, self.fit)
        if self.fit is None or joins is None:
            return []
        taken = joins.taken_by(call.operation)
        if taken is None:
            raise ValueError(
                "The concatenation has no units that could be fitted. "
                f"Received: target={self.target!r}, fit={self.fit!r}. Leave `fit` out."
            )
        return fitted(name, taken, self.fit, len(theirs), len(theirs) + len(ours))

    def _ends(self, model, coupling):
        """The call of the target, and the units of the source and of the target."""
        path, source = find_operation(model, self.source, "source")
        _, target = find_operation(model, self.target, "target")
        call = only_call(coupling, target)
        before = calls_of(coupling, source)
        if len(before) > 1:
            raise ValueError(
                "A layer that is called several times cannot be a source. "
                f"Received: source={self.source!r}, with {len(before)} calls."
            )
        if before and _depends(coupling.trace, before[0], call):
            raise ValueError(
                "The source must not depend on the target. "
                f"Received: source={self.source!r}, target={self.target!r}."
            )
        (output,) = call.outputs
        given = graph_outputs(model, path, source)[0][0].shape
        if len(given) != len(output.shape):
            raise ValueError(
                "The source must give a tensor with as many axes as the target. Received: "
                f"source={self.source!r} {given}, target={self.target!r} {output.shape}."
            )
        return call, output_units(coupling, source), units_along(coupling, output)

    def draft(self, model, draft):
        path, target = find_operation(model, self.target, "target")
        inputs = draft.inputs_of(model, path, target)
        inputs.connect(model, self)
        _draft_positions(model, draft, inputs)

    def effects(self, model):
        path, target = find_operation(model, self.target, "target")
        if not _joins_units(target, graph_outputs(model, path, target)[0][:1]):
            return [f"{self.target!r} gets another input"]
        return effects_of_channels(model, target)

    def describe(self):
        how = [_at(self.position), f"fit={self.fit}" if self.fit else ""]
        return "connect", f"{self.source} -> {self.target}", ", ".join(filter(None, how))


@dataclass(frozen=True)
class Disconnect(Edit):
    """Removes an input from an operation, see `tfprune.surgery.disconnect`."""

    source: str
    target: str
    position: int | None = None

    def check(self, model):
        _check_index(self.position)
        find_operation(model, self.source, "source")
        path, target = find_operation(model, self.target, "target")
        _check_list(model, path, target, "target")

    def draft(self, model, draft):
        path, target = find_operation(model, self.target, "target")
        inputs = draft.inputs_of(model, path, target)
        inputs.disconnect(model, self)
        _draft_positions(model, draft, inputs)

    def effects(self, model):
        return [f"{self.target!r} loses an input"]

    def describe(self):
        return "disconnect", f"{self.source} -> {self.target}", _at(self.position)


def _draft_positions(model, draft, inputs):
    """Tells where the channels of a concatenation stand now."""
    operation = inputs.operation
    if not _joins_units(operation, inputs.tensors):
        return
    axis = operation.axis
    ends = np.cumsum([0, *(tensor.shape[axis] for tensor in inputs.tensors)])
    positions = draft.positions(model, inputs.path, operation)
    positions.clear()
    for edge in inputs.edges:
        if isinstance(edge, int):
            positions += range(ends[edge], ends[edge + 1])
        else:
            positions += [NEW] * graph_outputs(model, inputs.path, edge)[0][0].shape[axis]


def _joins_units(operation, tensors):
    """Whether an operation concatenates tensors along an axis of known size."""
    is_join = isinstance(rule_of(operation), Concatenate)
    return is_join and all(tensor.shape[operation.axis] is not None for tensor in tensors)


def effects_of_channels(model, target):
    """The reasons why a model computes something else when an operation gets channels of weight 0.

    Args:
        model: The model.
        target: A concatenation or depthwise convolution, called once.
    """
    coupling = couple(model, [target])  # the channels that come are as those that are there
    units = np.unique(units_along(coupling, only_call(coupling, target).outputs[0]))
    channels = np.zeros(coupling.size, bool)
    channels[units] = True
    pins = [coupling.pins[unit] for unit in units.tolist() if unit in coupling.pins]
    reasons = [*uses_without_weights(coupling, channels), *pins]
    return [f"{target.name!r} gets channels: {reason}" for reason in dict.fromkeys(reasons)]


def _check_index(position):
    if position is not None:
        check_integer("position", position, least=0)


def _at(position):
    return "" if position is None else f"at position {position}"


def is_concatenation(call):
    """Whether a call concatenates units, not samples."""
    if not isinstance(rule_of(call.operation), Concatenate):
        return False
    return call.operation.axis % len(call.outputs[0].shape) != 0


def _check_list(model, path, target, argument):
    """Raises a `ValueError` unless an operation takes a list of tensors."""
    nodes = _keras.nodes(_keras.functional(model_at(model, path)))
    given = [(*node.arguments.args, None)[0] for node, _ in nodes if node.operation is target]
    is_layer = isinstance(target, keras.layers.Layer) and _keras.functional(target) is None
    if not is_layer or not any(isinstance(each, (list, tuple)) for each in given):
        hint = " Use a layer in its place, as `keras.layers.Concatenate`."
        raise ValueError(
            "Inputs can be given to, and taken from, layers which take a list of tensors, as Add "
            "and Concatenate, not operations of `keras.ops`. "
            f"Received: {argument}={target.name!r} ({type(target).__module__}."
            f"{type(target).__name__}).{'' if isinstance(target, keras.layers.Layer) else hint}"
        )


def _depends(known, source, target):
    """Whether the call `source` depends on the output of the call `target`."""
    made = {output: call for call in known.calls for output in call.outputs}
    stack, seen = [source], set()
    while stack:
        call = stack.pop()
        if call is target:
            return True
        if call is not None and id(call) not in seen:
            seen.add(id(call))
            stack.extend(made.get(tensor) for tensor in call.inputs)
    return False
