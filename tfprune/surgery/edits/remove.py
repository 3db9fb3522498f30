"""Layers taken out of a model."""

from dataclasses import dataclass

import keras

from tfprune import _keras
from tfprune.surgery import graph
from tfprune.surgery.edits.base import Edit, at
from tfprune.surgery.identity import is_identity
from tfprune.surgery.lookup import calls_of, find, units_along
from tfprune.surgery.sizes import equal


@dataclass(frozen=True)
class Remove(Edit):
    """Takes a layer out, see `tfprune.surgery.remove`."""

    layer: str

    def check(self, model):
        _, operation = find(model, self.layer)
        if isinstance(operation, keras.layers.InputLayer) or _keras.functional(operation):
            raise ValueError(
                "An input, or a model in a model, cannot be removed. "
                f"Received: layer={operation.name!r}. Name a layer."
            )

    def rows(self, model, coupling, edits):
        _, operation = find(model, self.layer)
        calls = calls_of(coupling, operation)
        for call in calls:
            _check_call(call)
        rows = []
        for call in calls[:1]:
            ours, theirs = (
                units_along(coupling, tensor) for tensor in (call.inputs[0], call.outputs[0])
            )
            if len(ours) != len(theirs) or (ours != theirs).any():
                name = f"what {operation.name!r} takes and what it gives, to remove it"
                rows.append(equal(name, ours, theirs))
        return rows

    def removed(self, model):
        return [find(model, self.layer)[1]]

    def draft(self, model, draft):
        path, operation = find(model, self.layer)
        around = at(model, path[:-1], path[-1]) if path else model
        if isinstance(around, keras.Sequential):
            draft.structure.append(
                lambda config, here: (
                    graph.without(config, operation.name) if here == path else config
                )
            )
            return
        for node, place in _keras.nodes(_keras.functional(around)):
            if node.operation is operation:
                masks = len(keras.tree.flatten(node.arguments.kwargs.get("mask")))
                tensors = len(node.arguments.keras_tensors)
                is_masked = node.arguments.kwargs.get("mask") is not None
                gone = range(tensors - masks, tensors) if is_masked else ()
                draft.dropped[(*path, operation.name, place)] = tuple(gone)

    def effects(self, model):
        layer = find(model, self.layer)[1]
        is_nothing = isinstance(layer, keras.layers.Layer) and is_identity(layer)
        return [] if is_nothing else [f"{self.layer!r} is removed"]

    def describe(self):
        return "remove", self.layer, ""


def _check_call(call):
    operation = call.operation
    if len(call.inputs) != 1 or len(call.outputs) != 1:
        raise ValueError(
            "Only a layer with one input and one output can be removed. "
            f"Received: layer={operation.name!r}, with {len(call.inputs)} inputs and "
            f"{len(call.outputs)} outputs. Take inputs away first, with "
            "`tfprune.surgery.disconnect`; where one is left the layer goes by itself."
        )
    before, after = (tensor.shape for tensor in (call.inputs[0], call.outputs[0]))
    if len(before) != len(after):
        raise ValueError(
            "A layer which changes the number of axes cannot be removed. "
            f"Received: layer={operation.name!r}, {before} -> {after}. Replace it."
        )
