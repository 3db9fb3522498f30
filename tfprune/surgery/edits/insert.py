"""Inserts layers into a model."""

import copy
from dataclasses import dataclass

import numpy as np

from tfprune import _keras
from tfprune.surgery import graph
from tfprune.surgery.edits.base import Edit, layer_of
from tfprune.surgery.identity import check_activations, set_identity
from tfprune.surgery.lookup import (
    find_operation,
    graph_outputs,
    model_at,
    operation_at,
    walk_operations,
)

_INITS = ("identity", "default")


@dataclass(frozen=True)
class Insert(Edit):
    """Inserts layers after an operation, see `tfprune.surgery.insert`."""

    after: str
    layers: tuple
    init: str = "identity"
    weights: tuple = ()
    before: tuple | None = None

    before_sizes = True

    @property
    def keeps_shapes(self):
        """An identity keeps shapes; other layers may not."""
        return self.init == "identity" and not any(v is not None for v in self._given)

    def check(self, model):
        if self.init not in _INITS:
            raise ValueError(f"Argument `init` must be one of {_INITS}. Received: {self.init!r}.")
        if not self.layers:
            raise ValueError("Argument `layers` must hold at least one layer. Received none.")
        path, operation = find_operation(model, self.after, "after")
        taken = {each.name for _, each in walk_operations(model)}
        for name in self.names:
            if name in taken:
                raise ValueError(
                    "The name of an inserted layer must be new. "
                    f"Received: layer={name!r}, which the model has already."
                )
            taken.add(name)
        several = [made for made in graph_outputs(model, path, operation) if len(made) > 1]
        if several:
            raise ValueError(
                "Layers can only be inserted behind a layer with one output. "
                f"Received: after={operation.name!r}, which has {len(several[0])}."
            )
        if self.before is not None:
            self._check_before(model, path, operation)

    def _check_before(self, model, path, operation):
        """Raises a `ValueError` unless all of `before` take the output of the operation."""
        around = model_at(model, path)
        graph_of = _keras.functional(around)
        calls = [(each, node) for node, _ in _keras.nodes(graph_of) for each in [node.operation]]
        made = {id(outputs[0]) for outputs in graph_outputs(model, path, operation)}
        taking = [
            each.name
            for each, node in calls
            if not made.isdisjoint(map(id, node.arguments.keras_tensors))
        ]
        if not made.isdisjoint(map(id, graph_of.outputs)):
            taking.append(around.name)
        if not self.before or not set(self.before) <= set(taking):
            raise ValueError(
                "Argument `before` must hold layers that take the output of `after`, or the model "
                f"for its outputs. Received: after={self.after!r}, before={list(self.before)}. "
                f"What takes it: {', '.join(map(repr, dict.fromkeys(taking)))}."
            )

    @property
    def names(self):
        """The names of the layers."""
        return [layer["config"]["name"] for layer in self.layers]

    def draft(self, model, draft):
        path, operation = find_operation(model, self.after, "after")
        draft.new_layers.extend(map(layer_of, self.layers))

        def inserted(config):
            layers = copy.deepcopy(self.layers)  # Keras takes the config of wrappers apart
            return graph.with_inserted(config, operation.name, layers, self.before)

        def fresh(new):
            pairs = zip(self.names, self._given, strict=True)
            return [operation_at(new, path, name) for name, values in pairs if values is None]

        def initialised(new):
            made = [operation_at(new, path, name) for name in self.names]
            if None in made:
                raise ValueError(
                    "Nothing takes the first output of the layer, so nothing can be put behind it. "
                    f"Received: after={self.after!r}."
                )
            for layer, values in zip(made, self._given, strict=True):
                if values is not None:
                    layer.set_weights([np.array(value) for value in values])
            if self.init == "identity":
                set_identity(fresh(new))

        draft.graph_edits.append((path, inserted))
        draft.weight_setters.append(initialised)
        if self.init == "identity":  # checked once all identities are known as such
            draft.checks.append(lambda new: check_activations(new, fresh(new)))

    @property
    def _given(self):
        """The weights of each layer that was given with some, else None."""
        return self.weights or (None,) * len(self.layers)

    def effects(self, model):
        pairs = zip(self.names, self._given, strict=True)
        made = [name for name, v in pairs if self.init == "default" or v is not None]
        return [f"{', '.join(map(repr, made))} inserted with weights of their own"] if made else []

    def describe(self):
        layers = ", ".join(
            f"{layer['config']['name']} ({layer['class_name']})" for layer in self.layers
        )
        before = "" if self.before is None else f" before {', '.join(self.before)}"
        return "insert", f"after {self.after}{before}", f"{layers}, init={self.init}"
