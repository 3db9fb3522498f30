"""The moving statistics of batch normalisations, computed anew over data."""

import contextlib

import keras
import numpy as np
import tensorflow as tf

from tfprune import _keras
from tfprune.coupling.trace import trace
from tfprune.criteria.captured_activations import capture_inputs
from tfprune.criteria.running import Held, Measuring, totals
from tfprune.masks import layer_filter
from tfprune.recovery.copy_model import as_tuple, copy_model


def recalibrate(model, data, *, batch_size=None, only=None, exclude=None, verbose=0):
    """Computes the moving statistics of every batch normalisation anew.

    Units that went, or weights that changed, leave behind statistics of what is no more. For each
    channel, over all examples and positions x_1 ... x_n that the layer gets in inference:

        mean = sum(x_i) / n,    variance = sum((x_i - mean)^2) / n

    exactly, in double precision and not as a moving average, so neither batch size nor order
    matter. The layers follow one another: what reaches a layer has passed those before it with
    their new statistics, and dropout is off. That takes one pass over the data for each layer that
    depends on another (parallel ones share a pass), where a single pass in training mode would
    give later layers what earlier ones make with the statistics of the batch. Channels of pruned
    units, which get 0, end up with mean 0 and variance 0, and give what they gave: 0.

    Args:
        model: A Functional or built Sequential model, masked or not. It is not touched.
        data: Arrays as `(x,)` or `(x, y)`, or a dataset of such batches, as `evaluate` takes it.
            It is gone through several times, so a generator will not do.
        batch_size: Integer, for arrays; Keras's default is 32.
        only, exclude: The layers that are meant, and those which keep their statistics; see
            `tfprune.prune_units`. By default all, those with `trainable=False` too.
        verbose: 0 is quiet, 1 shows Keras's progress bar.

    Returns:
        A new model, in which nothing but the statistics differs: weights, masks, compile state,
        optimizer and seeds are those of the model.

    Raises:
        ValueError: If there is no such layer, one is hidden in another layer or computes what it
            gets itself (a shared layer called in a row), or data is not finite.

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
    layer_filter.check(only, exclude, "layer -> bool")
    copy = copy_model(model)
    names = {id(theirs): ours for ours, theirs in _keras.layer_pairs(model, copy)}
    is_chosen = layer_filter.chooser(only, model, default=True, parts=_keras.all_layers)
    is_excluded = layer_filter.chooser(exclude, model, default=False, parts=_keras.all_layers)
    chosen = [
        layer
        for layer in _keras.all_layers(copy)
        if isinstance(layer, keras.layers.BatchNormalization)
        and is_chosen(names[id(layer)])
        and not is_excluded(names[id(layer)])
    ]
    if not chosen:
        raise ValueError(
            "The model has no batch normalisation to recalibrate. "
            f"Received: model={model.name!r}, only={only!r}, exclude={exclude!r}."
        )
    for layers in _in_order(copy, chosen):
        run = _Moments(copy, layers)
        with contextlib.ExitStack() as stack:
            for index, layer in enumerate(layers):
                stack.enter_context(capture_inputs(layer, run.watch(index)))
            run.over(as_tuple(data), batch_size, verbose)
        for layer, mean, variance in run.results():
            _assign(layer, mean, variance)
    return copy


def _in_order(model, chosen):
    """The layers in groups, each of which depends on those before it and not on itself."""
    wanted = {id(layer): layer for layer in chosen}
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


def _assign(layer, mean, variance):
    if not (np.isfinite(mean).all() and np.isfinite(variance).all()):
        raise ValueError(
            "The statistics of a layer are not finite: its inputs hold NaN or infinity, or all "
            f"are masked. Received: layer={layer.name!r}."
        )
    layer.moving_mean.assign(mean)
    layer.moving_variance.assign(variance)
    if getattr(layer, "moving_stddev", None) is not None:  # with `renorm=True`
        layer.moving_stddev.assign(np.sqrt(variance + layer.epsilon))


class _Moments(Measuring):
    """Count, mean and sum of squared deviations of the inputs of layers, merged over batches."""

    def __init__(self, model, layers):
        super().__init__(model, [], needs_loss=False)
        self._norms = Held(layers)
        shapes = [layer.moving_mean.shape for layer in layers]
        self._counts = totals([()] * len(layers), "count", "float64")
        self._means = totals(shapes, "mean", "float64")
        self._squares = totals(shapes, "squares", "float64")

    def take(self, x, y, sample_weight, size):
        """What the layers get is merged as it passes."""
        self(x, training=False)

    def watch(self, index):
        """Merges what a call gets into the moments of a layer.

        Reference: T. Chan, G. Golub, R. LeVeque, "Updating Formulae and a Pairwise Algorithm for
        Computing Sample Variances", 1979.
        """
        layer = self._norms.items[index]
        totals = (self._counts, self._means, self._squares)
        count, mean, squares = (total.items[index] for total in totals)

        def see(inputs, mask):
            channels = layer.axis % len(inputs.shape)
            axes = [axis for axis in range(len(inputs.shape)) if axis != channels]
            values = tf.cast(inputs, "float64")
            weights = tf.ones_like(values) if mask is None else _spread(mask, values)
            added = tf.reduce_max(tf.reduce_sum(weights, axes))  # the same for each channel
            average = tf.math.divide_no_nan(tf.reduce_sum(weights * values, axes, True), added)
            deviations = tf.reduce_sum(weights * tf.square(values - average), axes)
            total = tf.convert_to_tensor(count) + added
            moved = tf.reshape(average, [-1]) - tf.convert_to_tensor(mean)
            share = tf.math.divide_no_nan(added, total)
            squares.assign_add(deviations + tf.square(moved) * count * share)
            mean.assign_add(moved * share)
            count.assign(total)

        return see

    def results(self):
        """Each layer with its mean and variance; NaN if nothing reached it."""
        for layer, count, mean, squares in zip(
            self._norms.items,
            self._counts.items,
            self._means.items,
            self._squares.items,
            strict=True,
        ):
            count = float(keras.ops.convert_to_numpy(count))
            mean, squares = (keras.ops.convert_to_numpy(total) for total in (mean, squares))
            yield layer, mean if count else mean * np.nan, squares / (count or np.nan)


def _spread(mask, values):
    """A mask of time steps as weights of the values, whose channels stand last then."""
    return tf.broadcast_to(tf.cast(mask, "float64")[..., None], tf.shape(values))
