"""Embeddings: rows by index, and products of vectors with all rows (tied output layers)."""

import inspect

import keras
import numpy as np

from tfprune import _keras
from tfprune.coupling.labels import along, placed
from tfprune.coupling.rules.base import Need, Rule, fixed, rule, unknown
from tfprune.coupling.rules.linear import pin_reason


@rule(keras.layers.Embedding)
class Embedding(Rule):
    """Rows by index: embeddings of shape (rows, units)."""

    def label(self, call, inputs, labels):
        layer, output = call.operation, call.outputs[0]
        labels.pin(inputs[0], f"{layer.name!r} looks up rows by it")
        if _keras.changed_kernel(layer):
            return [fixed(output)]
        units = labels.fresh(layer.output_dim)
        labels.slice(layer, layer.embeddings, 1, units, makes=True)
        return [placed(units, -1, len(output.shape) - 1)]

    def constants(self, call, inputs):
        if _keras.changed_kernel(call.operation):
            return [unknown(call.outputs[0])]
        table = np.asarray(call.operation.embeddings, "float64")
        values = np.where((table == table[:1]).all(axis=0), table[0], np.nan)
        return [placed(values, -1, len(call.outputs[0].shape) - 1)]

    def resize(self, config, call, sizes):
        """Sets `output_dim`."""
        config["output_dim"] = sizes.of_weight(call.operation.embeddings)[1]


@rule(keras.layers.ReversibleEmbedding)
class ReversibleEmbedding(Embedding):
    """Also called on vectors: with `reverse=True` their products with all rows, of fixed number."""

    has_sizes = False  # the inputs of its calls are of two kinds

    def label(self, call, inputs, labels):
        layer = call.operation
        if not _is_reversed(call):
            outputs = super().label(call, inputs, labels)
            labels.slice(layer, _reverse_weight(layer), 0, outputs[0].reshape(-1))
            return outputs
        units = along(inputs[0], -1)
        if units is None or _keras.quantization(layer):
            labels.pin(inputs[0], pin_reason(layer, units))
        else:
            labels.slice(layer, layer.embeddings, 1, units, makes=True)
            labels.slice(layer, _reverse_weight(layer), 0, units)
        return [fixed(call.outputs[0])]

    def constants(self, call, inputs):
        return [unknown(call.outputs[0])] if _is_reversed(call) else super().constants(call, inputs)

    def needs(self, call, flow):
        units = along(flow.labels(call.inputs[0]), -1) if _is_reversed(call) else None
        if units is None:
            return []
        layer = call.operation
        weight = _reverse_weight(layer)
        weight = np.asarray(layer.embeddings).T if weight is None else np.asarray(weight)
        units = np.broadcast_to(units, weight.shape[:1])
        constants = np.broadcast_to(along(flow.constants(call.inputs[0]), -1), units.shape)
        used = (weight != 0).any(axis=1) & (constants != 0)
        return [Need(units, used, f"{layer.name!r} uses it on the way back")]


def _is_reversed(call):
    bound = inspect.signature(call.operation.call).bind(*call.args, **call.kwargs)
    return bound.arguments.get("reverse", False)


def _reverse_weight(layer):
    """The second kernel of an embedding whose ways there and back are not tied, else None."""
    return None if layer.tie_weights else layer.reverse_embeddings
