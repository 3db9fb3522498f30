"""Gradient accumulation for masked weights, pruned and frozen elements included.

The gradient of a weight is read before its mask is applied, by a custom gradient around the read of
the weight. There is no second backward pass, and switching it on and off traces nothing anew.
"""

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from tfprune import _keras


class GradientAccumulator:
    """Sums the gradients of weights over training steps, without the mask.

    Use it for criteria that need the gradient of pruned elements, as growing by gradient does, or
    sums over training, as movement pruning does.

    The gradients are those of the loss, without the loss scale of mixed precision; a step which the
    optimizer skips, because its gradients are not finite, is not counted. Several reads of one
    weight in one step are summed, and so are the replicas of a strategy.

    Args:
        model: The model that is trained.
        weights: `PrunableWeight`s of it.
        optimizer: The optimizer that scales the loss; by default `model.optimizer`.
        times_weight: Whether to sum -w dL/dw instead of dL/dw, with w as it is at that step. These
            totals are saved with the masks, in every file of the model, and go on from there: in
            another accumulator of the model, and in one of a model that was loaded.

    Raises:
        ValueError: If a weight belongs to a cell in a `keras.layers.RNN` that is not unrolled.

    Example:

    >>> import tfprune
    >>> from tfprune.weights.prunable import select_weights
    >>> model = keras.Sequential([keras.Input((2,)), tfprune.layers.Dense(1, use_bias=False)])
    >>> model.compile("sgd", "mean_absolute_error")
    >>> tfprune.set_masks(model, model.layers[0], "kernel", trainable=False)
    >>> accumulator = GradientAccumulator(model, select_weights(model))
    >>> accumulator.attach()
    >>> accumulator.start()
    >>> loss = model.train_on_batch(np.array([[3.0, 4.0]]), np.array([[1.0]]))
    >>> accumulator.totals()[0].ravel().tolist()
    [-3.0, -4.0]
    """

    def __init__(self, model, weights, optimizer=None, times_weight=False):
        self.model = model
        self.masks = [weight.mask for weight in weights]
        check_no_loops(model, self.masks)
        optimizer = getattr(model, "optimizer", None) if optimizer is None else optimizer
        with model.distribute_strategy.scope():
            self._enabled = keras.Variable(
                False, dtype="bool", trainable=False, aggregation="only_first_replica"
            )
            self._count = _summed((), "gradient_count")
            self._observers = [
                _Observer(mask.weight, self._enabled, self._count, optimizer, times_weight)
                for mask in self.masks
            ]
        self.is_running = False

    def attach(self):
        """Puts the accumulation into the reads of the weights, and retraces `model.train_function`.

        A training step of your own must be traced after this call.
        """
        for mask, observer in zip(self.masks, self._observers, strict=True):
            mask.observer = observer
        self._trace_again()

    def detach(self, keep=False):
        """Takes it out of the reads of the weights; the totals stay.

        Args:
            keep: Whether the totals stay with the masks too, to go on in another accumulator.
        """
        for mask, observer in zip(self.masks, self._observers, strict=True):
            if mask.observer is observer:
                mask.observer = None
                mask.sums = ops.convert_to_numpy(observer.total) if keep else None
        self._trace_again()

    def start(self):
        """Sets the totals to 0, or to those that go on, and starts to accumulate."""
        self._count.assign(0.0)
        for mask, observer in zip(self.masks, self._observers, strict=True):
            goes_on = observer.saved is not None and mask.sums is not None
            observer.total.assign(mask.sums if goes_on else np.zeros(mask.weight.shape, "float32"))
        self.resume()

    def resume(self):
        """Accumulates from here on, on top of the totals."""
        self._enabled.assign(True)
        self.is_running = True

    def stop(self):
        """Stops accumulating; the totals stay."""
        self._enabled.assign(False)
        self.is_running = False

    def has_gradients(self):
        """Whether a gradient was added since `start`, or the totals were loaded from a file."""
        has_count = float(ops.convert_to_numpy(self._count)) > 0
        return has_count or any(total.any() for total in self.totals())

    def totals(self):
        """The totals: a list of float32 arrays, one for each weight."""
        return [ops.convert_to_numpy(observer.total) for observer in self._observers]

    def _trace_again(self):
        if getattr(self.model, "train_function", None) is not None:
            self.model.make_train_function(force=True)


def unscaled(gradient, optimizer):
    """A gradient without the loss scale, 0 where the optimizer skips the step; and 1 or 0.

    Args:
        gradient: Float tensor.
        optimizer: The optimizer that scaled the loss, or None.
    """
    if optimizer is None:
        return gradient, 1.0
    gradient /= tf.cast(optimizer.scale_loss(tf.ones(())), "float32")
    if not isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        return gradient, 1.0
    is_finite = tf.reduce_all(tf.math.is_finite(gradient))
    return tf.where(is_finite, gradient, tf.zeros(())), tf.cast(is_finite, "float32")


def check_no_loops(model, masks):
    """Raises a `ValueError` for cells of an `RNN`, whose backward loop cannot write totals."""
    accumulated = {id(mask.weight) for mask in masks}
    for layer in _keras.all_layers(model):
        is_loop = isinstance(layer, keras.layers.RNN) and not layer.unroll
        if is_loop and not hasattr(layer, "masks_by_name"):
            names = [v.path for v in layer.trainable_variables if id(v) in accumulated]
            if names:
                raise ValueError(
                    "Gradients cannot be accumulated inside the loop of `keras.layers.RNN`. "
                    f"Received: layer={layer.name!r}, weights={names}. Use `unroll=True`, a layer "
                    "such as `tfprune.layers.LSTM`, or leave the layer out with `exclude`."
                )


class _Observer:
    """Passes the tensor of a weight on, and adds its gradient to the total."""

    def __init__(self, weight, enabled, count, optimizer, times_weight):
        self.enabled = enabled
        self.count = count
        self.optimizer = optimizer
        self.times_weight = times_weight
        self.total = _summed(weight.shape, f"{weight.name}_gradients")
        self.saved = self.total if times_weight else None

    def __call__(self, tensor):
        return _keras.observe_gradient(tensor, self._observe)

    def _observe(self, weight, upstream):
        tf.cond(
            tf.convert_to_tensor(self.enabled),
            lambda: self._add(weight, upstream),
            lambda: tf.constant(False),
        )

    def _add(self, weight, upstream):
        gradient = tf.cast(tf.convert_to_tensor(upstream), "float32")  # of an embedding: slices
        gradient, count = unscaled(gradient, self.optimizer)
        self.count.assign(self.count + count)
        if self.times_weight:
            gradient *= -tf.cast(weight, "float32")
        self.total.assign(self.total + gradient)
        return tf.constant(True)


def _summed(shape, name):
    """A variable to which each replica adds on its own, without waiting for the others."""
    return keras.Variable(
        np.zeros(shape, "float32"),
        dtype="float32",
        trainable=False,
        autocast=False,
        aggregation="sum",
        synchronization="on_read",
        name=name,
    )
