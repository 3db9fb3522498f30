"""What removed units gave on average, in the biases of those who took it."""

import contextlib
from dataclasses import dataclass

import keras
import numpy as np
import tensorflow as tf

from tfprune import _keras
from tfprune.coupling.rules import Flow, rule_of
from tfprune.coupling.rules.base import Rule
from tfprune.criteria.captured_activations import capture_inputs
from tfprune.criteria.running import Measuring, totals
from tfprune.layers import Masked
from tfprune.masks.setting import set_masks
from tfprune.recovery.copy_model import as_tuple, copy_model
from tfprune.recovery.unit_provenance import UnitProvenance, by_path


@dataclass(frozen=True)
class CompensatedLayer:
    """A layer whose bias makes up for removed inputs.

    Attributes:
        name: The layer's name, after those of the nested models around it.
        inputs: How many of its inputs were removed.
        is_padded: Whether its windows reach over the border, where the bias makes up for too much.
    """

    name: str
    inputs: int
    is_padded: bool


@dataclass(frozen=True)
class CompensationReport:
    """What `compensate` did.

    Attributes:
        layers: A `CompensatedLayer` for each layer that takes removed units.
        left: Names of layers that do, too, but are called more than once: one bias serves all.
    """

    layers: tuple
    left: tuple

    def __str__(self):
        lines = [
            f"{layer.name}: {layer.inputs} inputs in the bias"
            + (", except at the border" if layer.is_padded else "")
            for layer in self.layers
        ]
        return "\n".join([*lines, *(f"{n}: left as it is, a shared layer" for n in self.left)])


def compensate(model, dense, data, *, batch_size=None, return_report=False, verbose=0):
    """Puts the mean of what removed units gave into the biases of the layers that used it.

    For a layer that gets the inputs x and has lost those in R:

        b' = b + sum over i in R of mean(x_i) W_i

    with mean and kernel of the dense model: a unit counts as a constant with the value of its
    mean, and is folded as `tfprune.strip` folds constants. For dense layers the mean of the sums
    before the activation is then what it was. For convolutions the mean is over positions too: it
    is exact where the mean does not depend on the position, and where no window reaches over the
    border; those of padded convolutions get the bias of the interior (see the report). A layer
    without a bias gets one.

    Use it instead of `tfprune.reconstruct`, which fits biases as well; it takes a single pass.

    Args:
        model: A masked model after `tfprune.prune_units`, or what `tfprune.strip` made of it (with
            its weights not trained since). It is not touched.
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
    provenance = UnitProvenance(model, dense)
    calls, left = _consumers(provenance)
    if not calls:
        raise ValueError(
            "There is nothing to make up for: no removed unit is used by a layer with a bias of "
            f"its own. Received: model={model.name!r}, dense={dense.name!r}, shared layers={left}."
        )
    means = _means(provenance, calls, as_tuple(data), batch_size, verbose)
    flow = _flow(provenance, means)
    folds = {call: rule_of(call.operation).folds(call, flow) for call in calls}
    copy = copy_model(model, _with_biases(model, folds))
    layers = {id(ours): theirs for ours, theirs in _keras.layer_pairs(provenance.dense, copy)}
    for fold in (fold for each in folds.values() for fold in each):
        _apply(fold, layers[id(fold.layer)], provenance, copy)
    report = CompensationReport(tuple(_described(c, provenance) for c in calls), tuple(left))
    return (copy, report) if return_report else copy


def _consumers(provenance):
    """The calls which use units that are gone, and the names of shared layers that do."""
    calls, left = [], []
    for path, each in by_path(provenance.coupling.trace.calls).items():
        folds = type(rule_of(each[0].operation)).folds is not Rule.folds
        if folds and any(_gone(provenance, call).any() for call in each):
            if len(each) > 1:
                left.append("/".join(path))
            else:
                calls.append(each[0])
    return calls, left


def _gone(provenance, call):
    return ~provenance.is_kept(provenance.coupling.tensor_labels[call.inputs[0]])


def _described(call, provenance):
    is_padded = getattr(rule_of(call.operation), "is_padded", lambda layer: False)
    return CompensatedLayer(
        name="/".join(part.name for part in (*call.parents, call.operation)),
        inputs=int(_gone(provenance, call).sum()),
        is_padded=bool(is_padded(call.operation)),
    )


def _means(provenance, calls, data, batch_size, verbose):
    """For the first input of each call its mean, in an array of the labels' shape."""
    labels = [provenance.coupling.tensor_labels[call.inputs[0]] for call in calls]
    run = _Means(provenance.dense, [array.shape for array in labels])
    with contextlib.ExitStack() as stack:
        for index, call in enumerate(calls):
            stack.enter_context(capture_inputs(call.operation, run.watch(index)))
        run.over(data, batch_size, verbose)
    means = {call.inputs[0]: mean for call, mean in zip(calls, run.results(), strict=True)}
    for call in calls:
        if not np.isfinite(means[call.inputs[0]]).all():
            raise ValueError(
                "What a layer gets is not finite on the data. "
                f"Received: layer={call.operation.name!r}."
            )
    return means


class _Means(Measuring):
    """Sums over batch and positions, for as many positions as have labels of their own."""

    def __init__(self, model, shapes):
        super().__init__(model, [], needs_loss=False)
        self._sums = totals(shapes, "sum", "float64")
        self._counts = totals([()] * len(shapes), "count", "float64")

    def take(self, x, y, sample_weight, size):
        """What the layers get is added up as it passes."""
        self(x, training=False)

    def watch(self, index):
        """Adds what a call gets to one of the sums."""
        total, count = self._sums.items[index], self._counts.items[index]

        def see(inputs, mask):
            values = tf.cast(inputs, "float64")
            axes = [0, *(axis + 1 for axis, size in enumerate(total.shape) if size == 1)]
            added = tf.reduce_sum(values, axes, keepdims=True)[0]
            total.assign_add(added)
            share = tf.size(values, "int64") // tf.size(added, "int64")
            count.assign_add(tf.cast(share, "float64"))

        return see

    def results(self):
        """The means."""
        pairs = zip(self._sums.items, self._counts.items, strict=True)
        return [np.array(total) / float(np.array(count)) for total, count in pairs]


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


def _with_biases(model, folds):
    """An edit of configs which gives biases to the layers that need them and have none."""
    lacking = {}
    for call, each in folds.items():
        if any(fold.layer.bias is None for fold in each):
            lacking[tuple(part.name for part in (*call.parents, call.operation))] = call
    found = _keras_operations(model)
    by_id = {id(found[path]): call for path, call in lacking.items()}

    def edit(config, operation):
        call = by_id.get(id(operation))
        if call is None:
            return config
        arguments = dict(config["config"])
        rule_of(call.operation).add_bias(arguments, call)
        return {**config, "config": arguments}

    return edit


def _keras_operations(model, path=()):
    """The operations of a model by their names after those of the models around them."""
    found = {}
    for operation in _keras.operations(model):
        here = (*path, operation.name)
        if _keras.functional(operation) is None:
            found[here] = operation
        else:
            found.update(_keras_operations(operation, here))
    return found


def _apply(fold, layer, provenance, model):
    """Adds to the bias of a layer what the units it still has are owed."""
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
