"""Multi-head attention: heads, key and value dimensions, and the widths of inputs and outputs.

    scores_n = (x_q Q_n + q_n) (x_k K_n + k_n)^T / sqrt(key_dim)
    outputs  = sum over heads n of softmax(scores_n) (x_v V_n + v_n) O_n + o

Constants are folded in two ways. A key that is the same at every position adds the same number to
all scores of a query, and softmax is invariant to that. A value that is the same at every position
passes through the softmax unchanged, since its weights add up to 1.
"""

import inspect
import math
from dataclasses import dataclass

import keras
import numpy as np

from tfprune import _keras
from tfprune.coupling.labels import along, placed
from tfprune.coupling.rules.base import Fold, Need, Rule, fixed, rule, unknown, unknown_outputs
from tfprune.layers import DROP_INS


@dataclass(frozen=True, eq=False)
class _Projection:
    """`x W + b`, with a kernel (inputs, heads, dimensions), as arrays."""

    layer: object
    kernel: np.ndarray
    bias: np.ndarray

    def of_constants(self, constants):
        """The projection (heads, dimensions) of constants; NaN where it is not known."""
        is_unknown = np.isnan(constants)
        values = np.tensordot(np.where(is_unknown, 0, constants), self.kernel, 1) + self.bias
        return np.where((self.kernel[is_unknown] != 0).any(axis=0), np.nan, values)

    def reach(self, elements):
        """Which inputs reach any of the given elements, a boolean array (heads, dimensions)."""
        return (self.kernel[:, elements] != 0).any(axis=1)


class _Attention(Rule):
    """A dimension is shared by all heads: it can be removed if no head needs it."""

    def labels_inside(self, layer, sizes, labels):
        """Labels of heads, key heads, key and value dimensions; records their constraints."""
        raise NotImplementedError

    def labels_outside(self, call, incoming, labels):
        """Labels of the width of the output."""
        return labels.fresh(call.outputs[0].shape[-1])

    def label(self, call, inputs, labels):
        layer, tensors = call.operation, _data(call)
        known = dict(zip(call.inputs, inputs, strict=True))
        incoming = [along(known[tensor], -1) for tensor in tensors]
        reason = _pin_reason(layer, incoming)
        for tensor in call.inputs:
            if reason or tensor not in tensors:
                labels.pin(known[tensor], reason or f"{layer.name!r} masks places by it")
        if reason:
            return [fixed(tensor) for tensor in call.outputs]
        inside = self.labels_inside(layer, _sizes(layer, lambda weight: weight.shape), labels)
        outgoing = self.labels_outside(call, incoming, labels)
        if len(call.outputs) > 1:
            labels.pin(inside[0], f"{layer.name!r} returns the scores of its heads")
        _record_slices(layer, incoming, inside, outgoing, labels)
        call.memo["labels"] = (*inside, outgoing)
        output = placed(outgoing, -1, len(call.outputs[0].shape) - 1)
        return [output, *map(fixed, call.outputs[1:])]

    def constants(self, call, inputs):
        if "labels" not in call.memo:
            return unknown_outputs(call)
        known = dict(zip(call.inputs, inputs, strict=True))
        values, output = self._values(call, along(known[_data(call)[1]], -1))
        is_unknown = (np.isnan(values)[..., None] & (output.kernel != 0)).any(axis=(0, 1))
        sums = np.tensordot(np.nan_to_num(values), output.kernel, 2) + output.bias
        found = placed(np.where(is_unknown, np.nan, sums), -1, len(call.outputs[0].shape) - 1)
        return [found, *map(unknown, call.outputs[1:])]

    def _values(self, call, constants):
        """The constants of (head, value dimension) after the softmax, and the last projection."""
        parts = _projections(call)
        values = parts["value"].of_constants(
            np.broadcast_to(constants, parts["value"].kernel.shape[:1])
        )
        adds_up = _sums_to_one(call) and "gate" not in parts
        return np.where((values == 0) | adds_up, values, np.nan), parts["attention_output"]

    def needs(self, call, flow):
        if "labels" not in call.memo:
            return []
        heads, key_heads, key_dims, value_dims, _ = call.memo["labels"]
        parts, name = _projections(call), call.operation.name
        values, scores = self._used(call, flow)
        shared = np.repeat(key_heads, len(heads) // len(key_heads))
        found = [
            Need(heads, values.any(axis=1), f"the outputs of {name!r} use it"),
            Need(value_dims, values.any(axis=0), f"the outputs of {name!r} use it"),
            Need(key_dims, scores.any(axis=0), f"the scores of {name!r} use it"),
            Need(shared, flow.is_needed(heads), f"heads of {name!r} use it"),
        ]
        query, value, key = (_incoming(call, flow, tensor) for tensor in _data(call))
        is_used = {
            "query": parts["query"].reach(scores),
            "value": parts["value"].reach(values),
            "key": parts["key"].reach(scores) & np.isnan(key[1]),
        }
        if "gate" in parts:
            is_used["query"] |= parts["gate"].reach(values)
        for (_, constants), kind in ((query, "query"), (value, "value")):
            if _can_fold(call, flow, kind):
                is_used[kind] &= np.isnan(constants)
            else:
                known = ~np.isnan(constants) & (constants != 0)
                is_used[kind] = np.where(known, _reaches_any(parts, kind), is_used[kind])
                is_used[kind] &= constants != 0
        for (labels, _), kind in ((query, "query"), (value, "value"), (key, "key")):
            found.append(Need(labels, is_used[kind], f"{name!r} uses it"))
        return found

    def _used(self, call, flow):
        """Which (head, value dimension) and which (head, key dimension) some output needs."""
        heads, _, _, _, outgoing = call.memo["labels"]
        parts = _projections(call)
        query, value, key = (_incoming(call, flow, tensor)[1] for tensor in _data(call))
        constants, output = self._values(call, value)
        is_foldable = (constants == 0) | (~np.isnan(constants) & flow.can_fold(call))
        values = (output.kernel[..., flow.is_needed(outgoing)] != 0).any(axis=-1) & ~is_foldable
        is_active = values.any(axis=1) | (len(call.outputs) > 1 and flow.is_needed(heads))
        changes = np.isnan(parts["key"].of_constants(key))
        scores = changes & (parts["query"].of_constants(query) != 0) & is_active[:, None]
        return values, scores

    def folds(self, call, flow):
        if "labels" not in call.memo:
            return []
        heads, key_heads, key_dims, value_dims, outgoing = call.memo["labels"]
        parts, added = _projections(call), {}
        stays = {
            "query": flow.is_needed(heads)[:, None] & flow.is_needed(key_dims),
            "value": flow.is_needed(heads)[:, None] & flow.is_needed(value_dims),
        }
        query, value, _ = (_incoming(call, flow, tensor) for tensor in _data(call))
        for kind, (labels, constants) in (("query", query), ("value", value), ("gate", query)):
            if kind in parts:
                removed = np.where(flow.is_needed(labels), 0, np.nan_to_num(constants))
                folded = np.tensordot(removed, parts[kind].kernel, 1)
                added[kind] = np.where(stays.get(kind, stays["value"]), folded, 0)
        values, output = self._values(call, value[1])
        removed = np.where(stays["value"], 0, np.nan_to_num(values))
        folded = np.tensordot(removed, output.kernel, 2)
        added["attention_output"] = np.where(flow.is_needed(outgoing), folded, 0)
        if not any(array.any() for array in added.values()):
            return []
        step = len(heads) // len(key_heads)  # heads of queries that share one of keys
        axes = {
            "query": (heads, key_dims, 1),
            "key": (key_heads, key_dims, step),
            "value": (key_heads, value_dims, step),
            "gate": (heads, value_dims, 1),
            "attention_output": (outgoing, 1),
        }
        return [
            Fold(part.layer, added.get(kind, part.bias * 0)[:: axes[kind][-1]], axes[kind][:-1])
            for kind, part in parts.items()
            if kind in added or part.layer.bias is None
        ]

    def factors(self, call, sizes):
        """Queries grow by sqrt(new / old): divided by sqrt(new), they are as they were.

        Keras rounds 1 / sqrt(size) to single precision, whatever it computes in.
        """
        query = _keras.attention_projections(call.operation)["query"]
        old, new = query.kernel.shape[2], sizes.of_weight(query.kernel)[2]
        if not new:  # nobody needs the layer
            return []
        factor = _scale(old) / _scale(new)
        return [(weight, factor) for weight in (query.kernel, query.bias) if weight is not None]


def _scale(size):
    return float(np.float32(1 / math.sqrt(size)))


@rule(keras.layers.MultiHeadAttention)
class MultiHeadAttention(_Attention):
    """Attention in which key and value dimensions have sizes of their own."""

    def labels_inside(self, layer, sizes, labels):
        """Each head has its own keys."""
        heads, _, key_dims, value_dims = map(labels.fresh, sizes[:4])
        return heads, heads, key_dims, value_dims

    def resize(self, config, call, sizes):
        """Sets the numbers of heads and dimensions, and the width of the output."""
        heads, _, key_dims, value_dims, inputs, outputs = _sizes(call.operation, sizes.of_weight)
        config.update(num_heads=heads, key_dim=key_dims, value_dim=value_dims)
        if config["output_shape"] is not None or outputs != inputs:
            config["output_shape"] = (outputs,)


@rule(keras.layers.GroupQueryAttention)
class GroupQueryAttention(_Attention):
    """Attention in which heads share keys and values, with one size for both dimensions.

    Its output is as wide as its query.
    """

    def labels_inside(self, layer, sizes, labels):
        """Each head of keys has equally many heads; key and value dimensions are equally many."""
        heads, key_heads, key_dims, value_dims = map(labels.fresh, sizes[:4])
        labels.group(layer, np.stack([key_dims, value_dims]), whole=False)
        if len(heads) == len(key_heads):
            return heads, heads, key_dims, value_dims
        labels.group(layer, key_heads[:, None], heads.reshape(len(key_heads), -1))
        return heads, key_heads, key_dims, value_dims

    def labels_outside(self, call, incoming, labels):
        """Labels of the width of the output, which are those of the query and of the values."""
        outgoing = labels.fresh(call.outputs[0].shape[-1])
        for array in incoming[:2]:
            labels.unite(array, outgoing, f"{call.operation.name!r} is as wide as its inputs")
        return outgoing

    def resize(self, config, call, sizes):
        """Sets the numbers of heads, and their dimension."""
        heads, key_heads, key_dims, *_ = _sizes(call.operation, sizes.of_weight)
        config.update(num_query_heads=heads, num_key_value_heads=key_heads, head_dim=key_dims)


def _sizes(layer, shape_of):
    """Heads, key heads, key dimensions, value dimensions, inputs and outputs of an attention."""
    parts = _keras.attention_projections(layer)
    inputs, heads, key_dims = shape_of(parts["query"].kernel)
    _, key_heads, value_dims = shape_of(parts["value"].kernel)
    return (
        heads,
        key_heads,
        key_dims,
        value_dims,
        inputs,
        shape_of(parts["attention_output"].kernel)[-1],
    )


def _data(call):
    """The tensors of queries, values and keys."""
    arguments = inspect.signature(call.operation.call).bind(*call.args, **call.kwargs).arguments
    value, key = arguments["value"], arguments.get("key")
    return arguments["query"], value, value if key is None else key


def _incoming(call, flow, tensor):
    """The labels and the constants along the width of an input."""
    labels = np.broadcast_to(along(flow.labels(tensor), -1), tensor.shape[-1:])
    return labels, np.broadcast_to(along(flow.constants(tensor), -1), labels.shape)


def _pin_reason(layer, incoming):
    parts = _keras.attention_projections(layer)
    if any(array is None for array in incoming):
        return f"units stand on several axes of an input of {layer.name!r}"
    if type(layer) not in {cls for pair in DROP_INS.items() for cls in pair}:
        return f"{layer.name!r} ({type(layer).__name__}) may attend in a way of its own"
    changed = [reason for reason in map(_keras.changed_kernel, parts.values()) if reason]
    if changed:
        return f"{changed[0]} in {layer.name!r}"
    if len(parts["attention_output"].kernel.shape) != 3:
        return f"the output of {layer.name!r} has several axes"
    return None


def _projections(call):
    """The projections by name, those of keys and values repeated for the heads that share them."""
    if "projections" not in call.memo:
        parts = _keras.attention_projections(call.operation)
        heads = parts["query"].kernel.shape[1]
        call.memo["projections"] = found = {}
        for kind, part in parts.items():
            kernel = np.asarray(part.kernel, "float64")
            shape = part.kernel.shape[1:] if kind != "attention_output" else kernel.shape[-1:]
            bias = np.zeros(shape) if part.bias is None else np.asarray(part.bias, "float64")
            if kind in ("key", "value"):
                step = heads // shape[0]
                kernel, bias = np.repeat(kernel, step, 1), np.repeat(bias, step, 0)
            found[kind] = _Projection(part, kernel, bias)
    return call.memo["projections"]


def _sums_to_one(call):
    """Whether attention weights add up to 1 even where all positions are masked.

    Keras gives 0 there unless it uses its fused operation.
    """
    layer, query = call.operation, _data(call)[0]
    return len(query.shape) == 3 and len(call.outputs) == 1 and layer.dropout == 0


def _record_slices(layer, incoming, inside, outgoing, labels):
    """Records the slices of the weights of the projections."""
    parts = _keras.attention_projections(layer)
    heads, key_heads, key_dims, value_dims = inside
    query, value, key = incoming
    # Shared key heads follow the heads that use them: they are removed with the last of those.
    shared = "heads" if key_heads is heads else None
    for kind, inputs, rows, family, columns, dims in (
        ("query", query, heads, "heads", key_dims, "key_dims"),
        ("key", key, key_heads, shared, key_dims, "key_dims"),
        ("value", value, key_heads, shared, value_dims, "value_dims"),
        ("gate", query, heads, "heads", value_dims, "value_dims"),
    ):
        if kind in parts:
            part = parts[kind]
            labels.slice(layer, part.kernel, 0, inputs, uses=True)
            is_query = kind == "query"  # its dimensions are multiplied with those of the keys
            for weight, axis in ((part.kernel, 1), (part.bias, 0)):
                labels.slice(layer, weight, axis, rows, makes=family is not None, family=family)
                labels.slice(
                    layer, weight, axis + 1, columns, makes=True, family=dims, uses=is_query
                )
    last = parts["attention_output"]
    labels.slice(layer, last.kernel, 0, heads, uses=True)
    labels.slice(layer, last.kernel, 1, value_dims, uses=True)
    labels.slice(layer, last.kernel, 2, outgoing, makes=True)
    labels.slice(layer, last.bias, 0, outgoing, makes=True)


def _can_fold(call, flow, kind):
    """Whether constants of an input can be folded; no biases are created for scaled queries."""
    has_bias = _projections(call)["query"].layer.bias is not None
    return flow.can_fold(call) and (has_bias or kind != "query")


def _reaches_any(parts, kind):
    """Which inputs reach any head at all."""
    reached = (parts[kind].kernel != 0).any(axis=(1, 2))
    if kind == "query" and "gate" in parts:
        reached |= (parts["gate"].kernel != 0).any(axis=(1, 2))
    return reached
