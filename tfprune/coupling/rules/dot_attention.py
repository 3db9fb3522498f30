"""Attention without projections: queries, keys and values as they come in.

    scores = sum over units u of q_u k_u               (dot product)
    scores = sum over units u of tanh(s (q_u + k_u))   (concatenation)
    scores = sum over units u of s_u tanh(q_u + k_u)   (additive)
    outputs = softmax(scores over the keys) v

Queries and keys go together. A unit of the keys that holds the same at every place adds the same
number to all scores of a query, so the softmax takes no notice of it. The units of the values are
those of the outputs; a value that is the same at every place stays what it is.
"""

import inspect

import keras
import numpy as np

from tfprune.coupling.labels import along, placed
from tfprune.coupling.rules.base import Need, Rule, fixed, rule, unknown, unknown_outputs


@rule(keras.layers.Attention)
class Attention(Rule):
    """Dot-product attention, or that by a sum over tanh."""

    def label(self, call, inputs, labels):
        layer, tensors = call.operation, _data(call)
        known = dict(zip(call.inputs, inputs, strict=True))
        query, value, key = (along(known[tensor], -1) for tensor in tensors)
        if any(array is None for array in (query, value, key)):
            for array in inputs:
                labels.pin(array, f"units stand on other axes of an input of {layer.name!r}")
            return [fixed(tensor) for tensor in call.outputs]
        width = tensors[0].shape[-1:]
        query, key = np.broadcast_to(query, width), np.broadcast_to(key, width)
        labels.unite(query, key, f"{layer.name!r} multiplies it with fixed channels")
        self.note(layer, query, labels)
        call.memo["is followed"] = True
        output = placed(value, -1, len(call.outputs[0].shape) - 1)
        return [output, *map(fixed, call.outputs[1:])]

    def note(self, layer, units, labels):
        """Notes the weights of units of queries and keys."""

    def constants(self, call, inputs):
        if "is followed" not in call.memo:
            return unknown_outputs(call)
        known = dict(zip(call.inputs, inputs, strict=True))
        query, value, _ = _data(call)
        values = along(known[value], -1)
        if call.masks or query.has_mask:  # where a query is masked, the output is 0
            values = np.where(values == 0, values, np.nan)
        return [placed(values, -1, len(call.outputs[0].shape) - 1), *map(unknown, call.outputs[1:])]

    def needs(self, call, flow):
        if "is followed" not in call.memo:
            return []
        query, _, key = _data(call)
        if not any(flow.is_needed(flow.labels(tensor)).any() for tensor in call.outputs):
            return []
        labels = np.broadcast_to(along(flow.labels(query), -1), query.shape[-1:])
        keys = np.broadcast_to(along(flow.labels(key), -1), labels.shape)
        queries, constants = (
            np.broadcast_to(along(flow.constants(tensor), -1), labels.shape)
            for tensor in (query, key)
        )
        counts = np.isnan(constants) & self.counts(call.operation, queries)
        reason = f"the scores of {call.operation.name!r} use it"
        return [Need(labels, counts, reason), Need(keys, counts, reason)]

    def counts(self, layer, queries):
        """Whether units of keys that change count in the scores, given the queries' constants."""
        return (queries != 0) | (layer.score_mode != "dot")


@rule(keras.layers.AdditiveAttention)
class AdditiveAttention(Attention):
    """Attention by a sum over tanh, with a factor for each unit."""

    def note(self, layer, units, labels):
        """The factors."""
        labels.slice(layer, layer.scale, 0, units, uses=True)

    def counts(self, layer, queries):
        """Those whose factor is not 0."""
        if layer.scale is None:
            return np.ones(queries.shape, bool)
        return np.asarray(layer.scale) != 0


def _data(call):
    """The tensors of queries, values and keys."""
    arguments = inspect.signature(call.operation.call).bind(*call.args, **call.kwargs).arguments
    query, value, *key = arguments["inputs"]
    return query, value, key[0] if key else value
