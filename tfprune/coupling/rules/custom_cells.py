"""Recurrent layers over cells of users' classes: the rule is read off one step of the cell."""

import keras
import numpy as np

from tfprune import _keras
from tfprune.coupling.labels import along, placed
from tfprune.coupling.rules.base import (
    Rule,
    pin_inputs,
    rule_of,
    unknown,
    unknown_outputs,
)
from tfprune.coupling.rules.cell_steps import LabelledStep, NotTracedError, trace_step
from tfprune.coupling.rules.cell_trials import sizes_among_attributes
from tfprune.coupling.rules.custom_weights import own_weights
from tfprune.coupling.rules.parts import flow_inside


def own_cells(layer):
    """The cells of users' classes in the recurrent layers in a layer."""
    cells = [part.cell for part in _keras.all_layers(layer) if isinstance(part, keras.layers.RNN)]
    stacks = [cell for cell in cells if isinstance(cell, keras.layers.StackedRNNCells)]
    cells += [cell for stack in stacks for cell in stack.cells]
    return [
        cell
        for cell in cells
        if isinstance(cell, keras.layers.Layer) and not _keras.is_stock(type(cell))
    ]


class OwnCell(Rule):
    """One step of the cell is traced, and the new states have the units of the old ones.

    That the cell does the same with fewer units as with zeros in their places is tried; attributes
    that are sizes follow. The cell stays the object it is, and is resized in place.
    """

    def label(self, call, inputs, labels):
        layer, array, states = call.operation, inputs[0], [along(s, -1) for s in inputs[1:]]
        name, kind = getattr(layer.cell, "name", None), _own_class(layer.cell).__name__
        if not isinstance(layer.cell, keras.layers.Layer):
            reason = f"the cell of {layer.name!r} is no Keras layer"
            return pin_inputs(call, inputs, labels, reason)
        if layer.stateful:
            return pin_inputs(call, inputs, labels, f"{layer.name!r} is stateful")
        if array.ndim != 2 or along(array, -1) is None:
            reason = f"units stand on several axes before {layer.name!r}"
            return pin_inputs(call, inputs, labels, reason)
        try:
            shape = call.inputs[0].shape[2:]
            step = trace_step(layer.cell, shape, layer.cell.compute_dtype)
            call.memo["numbers"], families = sizes_among_attributes(layer, step)
            found = LabelledStep(layer, step, array[0], labels, families)
        except NotTracedError as why:
            reason = f"{layer.name!r} has a cell without a rule, {name!r} ({kind}), and "
            reason += f"none can be inferred: {why}"
            return pin_inputs(call, inputs, labels, reason)
        call.memo["step"] = found
        for given, units in zip(states, found.states, strict=False):
            labels.unite(given, units, f"{layer.name!r} starts from a fixed state")
        vectors = [found.output, *found.states]
        return [
            placed(vector, -1, len(tensor.shape) - 1)
            for vector, tensor in zip(vectors, call.outputs, strict=False)
        ]

    def constants(self, call, inputs):
        return unknown_outputs(call)

    def needs(self, call, flow):
        step = call.memo.get("step")
        if step is None:
            return []
        constants = {tensor: unknown(tensor) for tensor in step.tensor_labels}
        within = flow_inside(flow, call, step.tensor_labels, constants, ())
        return [need for each in step.calls for need in rule_of(each.operation).needs(each, within)]

    def in_place(self, call):
        def resize(copy, sizes):
            _resize(call, copy, sizes)

        return {id(call.operation.cell): resize} if "step" in call.memo else {}


def _resize(call, copy, sizes):
    """Resizes the copy of a cell in place."""
    weights = own_weights(call.operation.cell)
    shapes = [sizes.of_weight(weight) for weight in weights]
    for weight, shape in zip(own_weights(copy), shapes, strict=True):
        value = np.asarray(weight)
        for axis, size in enumerate(shape):
            value = np.take(value, np.arange(size) % value.shape[axis], axis)
        _keras.resize_variable(weight, value)
    for place, (weight, axis) in call.memo["numbers"].items():
        _keras.set_number(copy, place, int(shapes[weight][axis]))
    before, after = call.inputs[0].shape, sizes.of_tensor(call.inputs[0])
    steps = [(shape[0], *shape[2:]) for shape in (before, after)]
    _keras.forget_input_shape(copy, [steps])


def _own_class(cell):
    return getattr(cell, "own_class", None) or type(cell)
