"""Compensates for removed units in the biases of the layers that used them."""

from dataclasses import dataclass

import keras
import numpy as np
import tensorflow as tf

from tfprune import _keras
from tfprune._tools.checks import check_model
from tfprune.coupling.rules import Flow, rule_of
from tfprune.coupling.rules.base import Rule
from tfprune.criteria.captured_activations import capture_over_data
from tfprune.layers import Masked
from tfprune.masks.setting import set_masks
from tfprune.measuring.accumulators import accumulators
from tfprune.measuring.data import as_tuple
from tfprune.recovery.copy_model import copy_model, with_graph
from tfprune.recovery.unit_provenance import UnitProvenance, by_path


@dataclass(frozen=True)
class CompensatedLayer:
    """A layer whose bias compensates for removed inputs.

    Attributes:
        name: The layer's name, after those of the nested models around it.
        inputs: How many of its inputs were removed.
        is_padded: Whether its windows reach over the border, where the bias compensates too much.
    """

    name: str
    inputs: int
    is_padded: bool


@dataclass(frozen=True)
class CompensationReport:
    """The layers that `compensate` changed and skipped.

    Attributes:
        layers: A `CompensatedLayer` for each layer that lost inputs.
        skipped: Names of shared layers that lost inputs: one bias cannot serve several calls.
    """

    layers: tuple
    skipped: tuple

    def __str__(self):
        lines = [
            f"{layer.name}: {layer.inputs} inputs in the bias"
            + (", except at the border" if layer.is_padded else "")
            for layer in self.layers
        ]
        return "\n".join([*lines, *(f"{n}: left as it is, a shared layer" for n in self.skipped)])


def compensate(model, dense, data, *, batch_size=None, return_report=False, verbose=0):
    """Returns a copy of the model whose biases compensate for the mean of removed units.

    For a layer with the inputs x that has lost those in R:

        b' = b + sum over i in R of mean(x_i) W_i

    with mean and kernel of the dense model: a removed unit counts as a constant at its mean, and is
    folded as `tfprune.strip` folds constants. The mean pre-activations of dense layers are then
    those of the dense model. For convolutions the mean is over positions too: this is exact where
    the mean does not depend on the position and no window reaches over the border; padded
    convolutions get the bias of the interior (see the report). A layer without a bias gets one.

    Use it when a single pass over the data must do; `tfprune.reconstruct` fits kernels and biases,
    and makes it unnecessary.

    Args:
        model: A masked model after `tfprune.prune_units`, or what `tfprune.strip` made of it (with
            its weights not trained since). It is not touched. Of a subclassed model the Functional
            model of its `call` is copied, as `strip` gives it.
        dense: The model before pruning, with layers of the same names. It is not touched.
        data: Arrays as `(x,)` or `(x, y)`, or a dataset of such batches, as `evaluate` takes it.
        batch_size: Integer, for arrays; Keras's default is 32.
        return_report: Whether to return a `CompensationReport` as well.
        verbose: 0 is quiet, 1 shows Keras's progress bar.

    Returns:
        A new model with the same masks, compile state and slots; with `return_report=True`, the
        model and the report.

    Raises:
        ValueError: If the models do not fit together, no unit that a layer uses was removed, or
            data is not finite.

    Example:

    >>> import keras
    >>> import numpy as np
    >>> import tfprune
    >>> dense = keras.Sequential([
    ...     keras.Input((3,)), keras.layers.Dense(8, "relu"), keras.layers.Dense(1)])
    >>> masked = tfprune.prunable(dense)
    >>> counts = tfprune.prune_units(masked, 0.5)
    >>> x = np.random.default_rng(0).normal(size=(50, 3)).astype("float32")
    >>> small = tfprune.strip(compensate(masked, dense, x))
    >>> np.allclose(np.mean(small(x)), np.mean(dense(x)), atol=1e-5)
    True
    """
    check_model(model)
    check_model(dense, "dense")
    model = with_graph(model)
    provenance = UnitProvenance(model, dense)
    calls, skipped = _consumers(provenance)
    if not calls:
        raise ValueError(
            "There is nothing to make up for: no removed unit is used by a layer with a bias of "
            f"its own. Received: model={model.name!r}, dense={dense.name!r}, "
            f"shared layers={skipped}."
        )
    means = _means(provenance, calls, as_tuple(data), batch_size, verbose)
    flow = _flow(provenance, means)
    folds = {call: rule_of(call.operation).folds(call, flow) for call in calls}
    copy = copy_model(model, _with_biases(model, provenance.dense, folds))
    layers = {id(ours): theirs for ours, theirs in _keras.layer_pairs(provenance.dense, copy)}
    for fold in (fold for each in folds.values() for fold in each):
        _apply(fold, layers[id(fold.layer)], provenance, copy)
    report = CompensationReport(
        tuple(_compensated_layer(c, provenance) for c in calls), tuple(skipped)
    )
    return (copy, report) if return_report else copy


def _consumers(provenance):
    """The calls which use removed units, and the names of shared layers that do."""
    calls, skipped = [], []
    for path, each in by_path(provenance.coupling.trace.calls).items():
        folds = type(rule_of(each[0].operation)).folds is not Rule.folds
        is_beside = any(call.memo.get("has units beside") for call in each)  # so none are inputs
        if folds and not is_beside and any(_removed_inputs(provenance, c).any() for c in each):
            if len(each) > 1:
                skipped.append("/".join(path))
            else:
                calls.append(each[0])
    return calls, skipped


def _removed_inputs(provenance, call):
    return ~provenance.is_kept(provenance.coupling.tensor_labels[call.inputs[0]])


def _compensated_layer(call, provenance):
    is_padded = getattr(rule_of(call.operation), "is_padded", lambda call: False)
    return CompensatedLayer(
        name="/".join(call.path),
        inputs=int(_removed_inputs(provenance, call).sum()),
        is_padded=bool(is_padded(call)),
    )


def _means(provenance, calls, data, batch_size, verbose):
    """For the first input of each call its mean, in an array of the labels' shape."""
    inputs = [call.inputs[0] for call in calls]
    shapes = [provenance.coupling.tensor_labels[tensor].shape for tensor in inputs]
    sums, counts = (accumulators(each, "float64") for each in (shapes, [()] * len(calls)))
    captures = zip((call.operation for call in calls), map(_adder, sums, counts), strict=True)
    replicas = capture_over_data(provenance.dense, captures, data, batch_size, verbose)
    pairs = zip(replicas.totals(sums), replicas.totals(counts), strict=True)
    means = [total / float(count) for total, count in pairs]
    for call, mean in zip(calls, means, strict=True):
        if not np.isfinite(mean).all():
            raise ValueError(
                "What a layer gets is not finite on the data. "
                f"Received: layer={call.operation.name!r}."
            )
    return dict(zip(inputs, means, strict=True))


def _adder(total, count):
    """Sums inputs over batch and positions, for as many positions as have labels of their own."""

    def add(inputs, mask):
        values = tf.cast(inputs, "float64")
        axes = [0, *(axis + 1 for axis, size in enumerate(total.shape) if size == 1)]
        added = tf.reduce_sum(values, axes, keepdims=True)[0]
        total.assign_add(added)
        count.assign_add(tf.cast(tf.size(values, tf.int64) // tf.size(added, tf.int64), "float64"))

    return add


def _flow(provenance, means):
    """The flow of the dense model in which removed units are constants, and no others."""
    coupling, constants = provenance.coupling, {}
    operations = [id(call.operation) for call in coupling.trace.calls]
    for tensor, labels in coupling.tensor_labels.items():
        known = np.full(labels.shape, np.nan)
        if tensor in means:
            known = np.where(provenance.is_kept(labels), np.nan, means[tensor])
        constants[tensor] = known
    for call in coupling.trace.calls:  # some rules note what they need for `folds` here
        rule_of(call.operation).constants(call, [constants[tensor] for tensor in call.inputs])
    return Flow(
        tensor_labels=coupling.tensor_labels,
        tensor_constants=constants,
        roots=coupling.roots,
        needed=provenance.kept,
        called_once=frozenset(o for o in operations if operations.count(o) == 1),
        calls=coupling.trace.calls,
    )


def _with_biases(model, dense, folds):
    """An edit of configs which gives biases to the layers that need them and have none."""
    lacking = {
        id(call.operation): call
        for call, each in folds.items()
        if any(fold.layer.bias is None for fold in each)
    }
    pairs = _keras.layer_pairs(dense, model)
    by_id = {id(theirs): lacking[id(ours)] for ours, theirs in pairs if id(ours) in lacking}

    def edit(config, operation):
        call = by_id.get(id(operation))
        if call is None:
            return config
        arguments = dict(config["config"])
        rule_of(call.operation).add_bias(arguments, call)
        return {**config, "config": arguments}

    return edit


def _apply(fold, layer, provenance, model):
    """Adds a fold to the bias of a layer, for the units that it still has."""
    values = np.array(fold.values, "float64")
    kept = [provenance.is_kept(labels) for labels in fold.labels]
    for axis, stays in enumerate(kept):
        stays = np.broadcast_to(stays, values.shape[axis : axis + 1])
        if provenance.is_smaller:
            values = np.compress(stays, values, axis)
        else:
            values *= stays.reshape([-1 if a == axis else 1 for a in range(values.ndim)])
    is_new = fold.layer.bias is None
    layer.bias.assign(np.asarray(keras.ops.convert_to_numpy(layer.bias), "float64") + values)
    if is_new and isinstance(layer, Masked) and not all(stays.all() for stays in kept):
        shape = [np.broadcast_to(s, n) for s, n in zip(kept, layer.bias.shape, strict=True)]
        set_masks(model, layer, "bias", trainable=np.ix_(*(np.flatnonzero(s) for s in shape)))
