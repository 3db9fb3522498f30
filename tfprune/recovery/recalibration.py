"""Recalibrates the moving statistics of batch normalization layers on data."""

import keras
import numpy as np
import tensorflow as tf

from tfprune import _keras
from tfprune._tools.checks import check_model
from tfprune.coupling.model_trace import trace
from tfprune.criteria.captured_activations import capture_over_data
from tfprune.masks import layer_filter
from tfprune.measuring.accumulators import accumulators
from tfprune.measuring.data import as_tuple
from tfprune.recovery.copy_model import copy_model


def recalibrate(model, data, *, batch_size=None, only=None, exclude=None, verbose=0):
    """Returns a copy of the model with the moving statistics of batch normalization recomputed.

    Use it after units were pruned or weights changed, when the moving statistics no longer describe
    the inputs of their layers. For each channel, over all examples and positions x_1 ... x_n that
    the layer gets in inference:

        mean = sum(x_i) / n,    variance = sum((x_i - mean)^2) / n

    The statistics are exact and in double precision, not moving averages, so they depend on neither
    batch size nor order. Layers are recalibrated in the order of the model, each on inputs that
    passed the new statistics of those before it, without dropout. This takes a pass over the data
    for each layer that depends on another; parallel layers share a pass. (A single pass in training
    mode would show later layers what earlier ones make with the statistics of single batches.)
    Channels of pruned units get mean 0 and variance 0, and their output stays 0.

    Args:
        model: Any Keras model that is built, masked or not. It is not touched.
        data: Arrays as `(x,)` or `(x, y)`, or a dataset of such batches, as `evaluate` takes it.
            It is gone through several times, so a generator will not do.
        batch_size: Integer, for arrays; Keras's default is 32.
        only, exclude: Which layers are recalibrated, and which keep their statistics; see
            `tfprune.prune_units`. By default all, also those with `trainable=False`.
        verbose: 0 is quiet, 1 shows Keras's progress bar.

    Returns:
        A new model that differs in the statistics only: weights, masks, compile state, optimizer
        and seeds are those of `model`.

    Raises:
        ValueError: If there is no such layer, one is inside another layer or depends on its own
            output (a shared layer called in a row), or the data is not finite.

    Example:

    >>> import keras
    >>> import numpy as np
    >>> model = keras.Sequential([keras.Input((1,)), keras.layers.BatchNormalization()])
    >>> new = recalibrate(model, np.array([[1.0], [3.0]]))
    >>> np.asarray(new.layers[0].moving_mean), np.asarray(new.layers[0].moving_variance)
    (array([2.], dtype=float32), array([1.], dtype=float32))

    Reference:
        X. Li, S. Chen, X. Hu, J. Yang, "Understanding the Disharmony between Dropout and Batch
        Normalization by Variance Shift", https://arxiv.org/abs/1801.05134 (statistics as in
        inference); B. Li et al., "EagleEye: Fast Sub-net Evaluation for Efficient Neural Network
        Pruning", https://arxiv.org/abs/2007.02491 (after pruning).
    """
    check_model(model)
    layer_filter.check(only, exclude, "layer -> bool")
    copy = copy_model(model)
    names = {id(theirs): ours for ours, theirs in _keras.layer_pairs(model, copy)}
    is_included, is_excluded = layer_filter.predicates(model, only, exclude)
    selected = [
        layer
        for layer in _keras.all_layers(copy)
        if isinstance(layer, keras.layers.BatchNormalization)
        and is_included(names[id(layer)])
        and not is_excluded(names[id(layer)])
    ]
    if not selected:
        raise ValueError(
            "The model has no batch normalisation to recalibrate. "
            f"Received: model={model.name!r}, only={only!r}, exclude={exclude!r}."
        )
    for layers in _in_order(copy, selected):
        moments = [_Moments(layer) for layer in layers]
        captures = [(each.layer, each.add) for each in moments]
        replicas = capture_over_data(copy, captures, as_tuple(data), batch_size, verbose)
        totals = replicas.moments([(each.count, each.mean, each.squares) for each in moments])
        for each, total in zip(moments, totals, strict=True):
            each.assign(*total)
    return copy


def _in_order(model, selected):
    """The layers in groups, each of which depends on those before it and not on itself."""
    wanted = {id(layer): layer for layer in selected}
    traced = trace(model)
    behind = {tensor: frozenset() for tensor in traced.inputs}
    before = {}
    for call in traced.calls:
        sources = frozenset().union(*(behind[t] for t in (*call.inputs, *call.masks)))
        key = id(call.operation)
        if key in wanted:
            before[key] = before.get(key, frozenset()) | sources
            sources = sources | {key}
        behind.update(dict.fromkeys(call.outputs, sources))
    for key, layer in wanted.items():
        if key not in before:
            raise ValueError(
                "A batch normalisation inside another layer cannot be recalibrated. Received: "
                f"layer={layer.name!r}. `tfprune.prunable(model)` replaces layers made of layers "
                "by what is in them; or leave it out with `exclude`."
            )
        if key in before[key]:
            raise ValueError(
                "A shared batch normalisation gets what it gave itself, so its statistics would "
                f"change what they are taken of. Received: layer={layer.name!r}. Leave it out with "
                "`exclude`."
            )
    groups = []
    while before:
        ready = [key for key in before if not before[key].intersection(before)]
        groups.append([wanted[key] for key in ready])
        before = {key: sources for key, sources in before.items() if key not in ready}
    return groups


class _Moments:
    """Count, mean and sum of squared deviations of a layer's inputs, merged over batches.

    Reference: T. Chan, G. Golub, R. LeVeque, "Updating Formulae and a Pairwise Algorithm for
    Computing Sample Variances", 1979.
    """

    def __init__(self, layer):
        self.layer = layer
        shapes = [(), layer.moving_mean.shape, layer.moving_mean.shape]
        self.count, self.mean, self.squares = accumulators(shapes, "float64")

    def add(self, inputs, mask):
        """Merges the inputs of one call."""
        channels = self.layer.axis % len(inputs.shape)
        axes = [axis for axis in range(len(inputs.shape)) if axis != channels]
        values = tf.cast(inputs, "float64")
        weights = tf.ones_like(values) if mask is None else _spread(mask, values)
        added = tf.reduce_max(tf.reduce_sum(weights, axes))  # the same for each channel
        average = tf.math.divide_no_nan(tf.reduce_sum(weights * values, axes, True), added)
        deviations = tf.reduce_sum(weights * tf.square(values - average), axes)
        before = self.count.value
        total = before + added
        moved = tf.reshape(average, [-1]) - self.mean.value
        share = tf.math.divide_no_nan(added, total)
        self.squares.assign_add(deviations + tf.square(moved) * before * share)
        self.mean.assign_add(moved * share)
        self.count.assign(total)

    def assign(self, count, mean, squares):
        """Sets the layer's moving statistics."""
        variance = squares / (float(count) or np.nan)
        if not (np.isfinite(mean).all() and np.isfinite(variance).all()):
            raise ValueError(
                "The statistics of a layer are not finite: its inputs hold NaN or infinity, or all "
                f"are masked. Received: layer={self.layer.name!r}."
            )
        self.layer.moving_mean.assign(mean)
        self.layer.moving_variance.assign(variance)
        if getattr(self.layer, "moving_stddev", None) is not None:  # with `renorm=True`
            self.layer.moving_stddev.assign(np.sqrt(variance + self.layer.epsilon))


def _spread(mask, values):
    """A mask of time steps as weights of the values, whose channels are last."""
    return tf.broadcast_to(tf.cast(mask, "float64")[..., None], tf.shape(values))
