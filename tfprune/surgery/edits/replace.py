"""Replaces a layer by another."""

import copy
import inspect
from dataclasses import dataclass

import keras
import numpy as np

from tfprune import _keras
from tfprune.coupling.calls import Tensor
from tfprune.surgery.edits.base import Edit, layer_of
from tfprune.surgery.lookup import calls_of, find_operation, operation_at, unit_axis, units_along
from tfprune.surgery.size_constraints import SizeConstraint


@dataclass(frozen=True)
class Replace(Edit):
    """Replaces a layer by another, see `tfprune.surgery.replace`."""

    layer: str
    new_layer: dict
    keep_weights: bool = True
    weights: tuple | None = None

    def check(self, model):
        _, operation = find_operation(model, self.layer)
        is_input_or_model = isinstance(operation, keras.layers.InputLayer) or _keras.functional(
            operation
        )
        if is_input_or_model or not isinstance(operation, keras.layers.Layer):
            raise ValueError(
                "Only a layer can be replaced, not an input, a model or a raw operation. "
                f"Received: layer={operation.name!r} ({type(operation).__name__})."
            )

    def constraints(self, model, coupling, joins):
        _, operation = find_operation(model, self.layer)
        constraints = []
        for call in calls_of(coupling, operation)[:1]:
            (output, *_) = call.outputs
            axis = unit_axis(coupling, output)
            size = self._shape(call)[axis]
            units = units_along(coupling, output)
            if size is None or len(units) != output.shape[axis]:
                continue
            taken = units_along(coupling, call.inputs[0]) if call.inputs else ()
            if not (np.array_equal(taken, units) and size == len(units)):
                name = f"what {operation.name!r} gives, to be replaced"
                signs = np.ones_like(units)
                constraints.append(SizeConstraint(name, units, signs, int(size), hard=True))
        return constraints

    def _shape(self, call):
        """The shape of the output of the new layer for the inputs of the old one."""
        layer = layer_of(self.new_layer)
        args, kwargs = keras.tree.map_structure(_symbolic, (list(call.args), dict(call.kwargs)))
        try:
            outputs = keras.tree.flatten(layer(*args, **kwargs))
        except Exception as error:  # the layer may raise whatever it likes
            raise ValueError(
                "The new layer does not take what the old one takes, and nothing was changed. "
                f"Received: layer={self.layer!r}, new_layer={self._kind}. Keras says: {error}"
            ) from error
        if len(outputs) != len(call.outputs) or len(outputs[0].shape) != len(call.outputs[0].shape):
            raise ValueError(
                "The new layer must give tensors of as many axes as the old one. Received: "
                f"layer={self.layer!r}, new_layer={self._kind}, {call.outputs[0].shape} -> "
                f"{outputs[0].shape}."
            )
        return outputs[0].shape

    @property
    def _kind(self):
        return self.new_layer["class_name"]

    def draft(self, model, draft):
        path, operation = find_operation(model, self.layer)
        made = layer_of(self.new_layer)
        draft.new_layers.append(made)
        new = {**copy.deepcopy(self.new_layer["config"]), "name": operation.name}

        def exchanged(config):
            kept = {key: config[key] for key in ("name", "inbound_nodes") if key in config}
            if "inbound_nodes" in kept:
                kept["inbound_nodes"] = [_taken(node, made) for node in kept["inbound_nodes"]]
            return {**self.new_layer, "config": new, **kept}

        def given(new):
            operation_at(new, path, operation.name).set_weights([np.array(w) for w in self.weights])

        draft.layer_edits.setdefault(id(operation), []).append(exchanged)
        draft.replaced.append((path, operation, self.keep_weights and self.weights is None))
        if self.weights is not None:
            draft.weight_setters.append(given)

    def effects(self, model):
        return [f"{self.layer!r} is replaced"]

    def describe(self):
        kept = ", weights that fit are kept" if self.keep_weights else ""
        kept = ", with its weights" if self.weights is not None else kept
        return "replace", self.layer, f"by {self._kind}{kept}"


def _taken(node, layer):
    """A serialised call without arguments that are None and that a layer does not take."""
    known = inspect.signature(layer.call).parameters
    kwargs = {key: v for key, v in node["kwargs"].items() if v is not None or key in known}
    return {**node, "kwargs": kwargs}


def _symbolic(leaf):
    """A symbolic tensor for a tensor of a trace."""
    return keras.KerasTensor(leaf.shape, leaf.dtype) if isinstance(leaf, Tensor) else leaf
