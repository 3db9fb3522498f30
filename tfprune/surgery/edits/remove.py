"""Removes layers from a model."""

from dataclasses import dataclass

import keras

from tfprune import _keras
from tfprune.surgery import graph
from tfprune.surgery.edits.base import Edit
from tfprune.surgery.identity import is_identity
from tfprune.surgery.lookup import calls_of, find_operation, model_at, units_along
from tfprune.surgery.size_constraints import check_fit, equal_counts


@dataclass(frozen=True)
class Remove(Edit):
    """Removes a layer, see `tfprune.surgery.remove`."""

    layer: str
    fit: str | None = None

    def check(self, model):
        check_fit(self.fit)
        _, operation = find_operation(model, self.layer)
        if isinstance(operation, keras.layers.InputLayer) or _keras.functional(operation):
            raise ValueError(
                "An input, or a model in a model, cannot be removed. "
                f"Received: layer={operation.name!r}. Name a layer."
            )

    def constraints(self, model, coupling, joins):
        _, operation = find_operation(model, self.layer)
        calls = calls_of(coupling, operation)
        for call in calls:
            _check_call(call)
        if not calls:
            return []
        name = f"what {operation.name!r} takes and what it gives, to remove it"
        tensors = calls[0].inputs[0], calls[0].outputs[0]
        return equal_counts(name, *(units_along(coupling, tensor) for tensor in tensors), self.fit)

    def removed(self, model):
        return [find_operation(model, self.layer)[1]]

    def draft(self, model, draft):
        path, operation = find_operation(model, self.layer)
        around = model_at(model, path)
        if isinstance(around, keras.Sequential):
            draft.graph_edits.append(
                (path, lambda config: graph.without_layer(config, operation.name))
            )
            return
        for node, index in _keras.nodes(_keras.functional(around)):
            if node.operation is operation:
                masks = len(keras.tree.flatten(node.arguments.kwargs.get("mask")))
                tensors = len(node.arguments.keras_tensors)
                is_masked = node.arguments.kwargs.get("mask") is not None
                removed = range(tensors - masks, tensors) if is_masked else ()
                draft.dropped_inputs[(*path, operation.name, index)] = tuple(removed)

    def effects(self, model):
        layer = find_operation(model, self.layer)[1]
        is_nothing = isinstance(layer, keras.layers.Layer) and is_identity(layer)
        return [] if is_nothing else [f"{self.layer!r} is removed"]

    def describe(self):
        return "remove", self.layer, "" if self.fit is None else f"fit={self.fit}"


def _check_call(call):
    operation = call.operation
    if len(call.inputs) != 1 or len(call.outputs) != 1:
        raise ValueError(
            "Only a layer with one input and one output can be removed. "
            f"Received: layer={operation.name!r}, with {len(call.inputs)} inputs and "
            f"{len(call.outputs)} outputs. Take inputs away first, with "
            "`tfprune.surgery.disconnect`."
        )
    before, after = (tensor.shape for tensor in (call.inputs[0], call.outputs[0]))
    if len(before) != len(after):
        raise ValueError(
            "A layer which changes the number of axes cannot be removed. "
            f"Received: layer={operation.name!r}, {before} -> {after}. Replace it."
        )
