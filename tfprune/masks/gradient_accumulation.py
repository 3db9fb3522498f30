"""Watching the whole gradients of weights while a model trains, also where masks hide them.

What passes back through a weight is seen before its mask: pruned and frozen elements have their
gradient too. This is a custom gradient around the read of the weight: nothing is computed a second
time, nothing is added up while the watch is off, and switching it on or off retraces nothing.
"""

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from tfprune import _keras


class GradientWatch:
    """Adds up the gradients of some weights, step by step, while it is on.

    The gradients are those of the loss, without the scale that an optimizer puts on it for mixed
    precision; a step which such an optimizer skips, because its gradients are not finite, is not
    counted. Reads of one weight in one step add up, and so do the replicas of a strategy.

    Args:
        model: The model that is trained.
        weights: `PrunableWeight`s of it.
        optimizer: The one that scales the loss; by default `model.optimizer`.
        times_weight: Whether to add up -w dL/dw instead of dL/dw, w as it is at that step. These
            totals are written with the masks, so files of the model have them.

    Raises:
        ValueError: If a weight belongs to a cell in a `keras.layers.RNN` that is not unrolled.

    Example:

    >>> import tfprune
    >>> from tfprune.weights.prunable import select_weights
    >>> model = keras.Sequential([keras.Input((2,)), tfprune.layers.Dense(1, use_bias=False)])
    >>> model.compile("sgd", "mean_absolute_error")
    >>> tfprune.set_masks(model, model.layers[0], "kernel", trainable=False)
    >>> watch = GradientWatch(model, select_weights(model))
    >>> watch.attach()
    >>> watch.start()
    >>> loss = model.train_on_batch(np.array([[3.0, 4.0]]), np.array([[1.0]]))
    >>> watch.totals()[0].ravel().tolist()
    [-3.0, -4.0]
    """

    def __init__(self, model, weights, optimizer=None, times_weight=False):
        self.model = model
        self.masks = [weight.mask for weight in weights]
        _check_no_loops(model, self.masks)
        optimizer = getattr(model, "optimizer", None) if optimizer is None else optimizer
        with model.distribute_strategy.scope():
            self._is_on = keras.Variable(
                False, dtype="bool", trainable=False, aggregation="only_first_replica"
            )
            self._seen = _summed((), "gradients_seen")
            self._observers = [
                _Observer(mask.weight, self._is_on, self._seen, optimizer, times_weight)
                for mask in self.masks
            ]
        self.is_on = False

    def attach(self):
        """Begins to look at the weights; the model's own training function is made anew.

        A function of your own that is traced already sees nothing of it.
        """
        for mask, observer in zip(self.masks, self._observers, strict=True):
            mask.observer = observer
        self._trace_again()

    def detach(self):
        """Ends it; the totals stay."""
        for mask, observer in zip(self.masks, self._observers, strict=True):
            if mask.observer is observer:
                mask.observer = None
        self._trace_again()

    def start(self):
        """Sets the totals to 0 and switches on."""
        for variable in [self._seen, *(observer.total for observer in self._observers)]:
            variable.assign(np.zeros(variable.shape, "float32"))
        self.go_on()

    def go_on(self):
        """Switches on, with the totals as they are."""
        self._is_on.assign(True)
        self.is_on = True

    def stop(self):
        """Switches off; the totals stay."""
        self._is_on.assign(False)
        self.is_on = False

    def has_seen(self):
        """Whether a gradient came since it was started, or the totals were read from a file."""
        if float(ops.convert_to_numpy(self._seen)):
            return True
        return any(total.any() for total in self.totals())

    def totals(self):
        """The totals: a list of float32 arrays, one for each weight."""
        return [ops.convert_to_numpy(observer.total) for observer in self._observers]

    def _trace_again(self):
        if getattr(self.model, "train_function", None) is not None:
            self.model.make_train_function(force=True)


def _check_no_loops(model, masks):
    """Nothing can be added up in the loop in which TensorFlow goes back through an `RNN`."""
    watched = {id(mask.weight) for mask in masks}
    for layer in _keras.all_layers(model):
        is_loop = isinstance(layer, keras.layers.RNN) and not layer.unroll
        if is_loop and not hasattr(layer, "masks_by_name"):
            names = [v.path for v in layer.trainable_variables if id(v) in watched]
            if names:
                raise ValueError(
                    "Gradients cannot be watched inside the loop of `keras.layers.RNN`. "
                    f"Received: layer={layer.name!r}, weights={names}. Use `unroll=True`, a layer "
                    "such as `tfprune.layers.LSTM`, or leave the layer out with `exclude`."
                )


class _Observer:
    """Passes the tensor of a weight on, and adds up what comes back."""

    def __init__(self, weight, is_on, seen, optimizer, times_weight):
        self.is_on = is_on
        self.seen = seen
        self.optimizer = optimizer
        self.times_weight = times_weight
        self.total = _summed(weight.shape, f"{weight.name}_gradients")
        self.saved = self.total if times_weight else None

    def __call__(self, tensor):
        return _keras.watched(tensor, self._watch)

    def _watch(self, weight, upstream):
        tf.cond(
            tf.convert_to_tensor(self.is_on),
            lambda: self._add(weight, upstream),
            lambda: tf.constant(False),
        )

    def _add(self, weight, upstream):
        gradient = tf.cast(tf.convert_to_tensor(upstream), "float32")  # of an embedding: slices
        if self.optimizer is not None:
            gradient /= tf.cast(self.optimizer.scale_loss(tf.ones(())), "float32")
        if isinstance(self.optimizer, keras.optimizers.LossScaleOptimizer):
            is_finite = tf.reduce_all(tf.math.is_finite(gradient))
            gradient = tf.where(is_finite, gradient, tf.zeros(()))
            self.seen.assign(self.seen + tf.cast(is_finite, "float32"))
        else:
            self.seen.assign(self.seen + 1.0)
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
