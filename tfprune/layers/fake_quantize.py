"""Fake quantization: activations are rounded as in int8 and stay floats while a model trains.

This layer rounds activations. It is inserted at a tensor, not at each layer that takes it, because
LiteRT leaves a convolution in float whose output has two ranges. Weights are rounded where they are
read, behind their masks (`WeightMask.quantizer`), since the stored floats must move on.
"""

import keras
import tensorflow as tf

from tfprune import _keras
from tfprune._tools.checks import is_number

STEPS = 127
"""The largest integer of an int8 weight; the least is its negative, so that 0 is 0."""


@keras.saving.register_keras_serializable("tfprune")
class FakeQuantize(keras.layers.Layer):
    """Fake quantization: rounds activations to the 256 numbers of a range, as int8 stores them.

        outputs = (round(clip(x, low, high) / s - z) + z) * s,  s = (high - low) / 255

    with `low` and `high` moved so that 0 is one of the numbers, and stays exactly 0. In training,
    the range follows the least and the largest value of each batch, and 0, as a moving average that
    begins with the first batch. The gradient is 1 in the range, 0 outside. Before a range is
    known, all passes through as it is.

    `tfprune.quantize_aware` puts these layers into a model, and `tfprune.strip` replaces them by
    Keras's own operation `keras.quantizers.fake_quant_with_min_max_vars` with the range as it is.

    Args:
        momentum: Float, from 0 to below 1: how much of the range before stays at each step.

    Example:

    >>> layer = FakeQuantize()
    >>> _ = layer(keras.ops.array([[0.0, 2.55]]), training=True)
    >>> [round(float(value), 4) for value in layer(keras.ops.array([0.0, 0.014, 1.0, 9.0]))]
    [0.0, 0.01, 1.0, 2.55]

    Reference:
        B. Jacob et al., "Quantization and Training of Neural Networks for Efficient
        Integer-Arithmetic-Only Inference", https://arxiv.org/abs/1712.05877.
    """

    not_in_copies = ("observes",)

    observes = False
    """Whether each call widens the range to what passes through, which stays as it is."""

    def __init__(self, momentum=0.99, **kwargs):
        super().__init__(**kwargs)
        if not is_number(momentum) or not 0 <= momentum < 1:
            raise ValueError(
                f"Argument `momentum` must be from 0 to below 1. Received: momentum={momentum!r}."
            )
        self.momentum = momentum
        self.supports_masking = True

    def build(self, input_shape):
        """Makes the variables of the range: 0 and 0 while it is not known."""
        how = {"initializer": "zeros", "dtype": "float32", "trainable": False, "autocast": False}
        self.low = self.add_weight(shape=(), name="low", **how)
        self.high = self.add_weight(shape=(), name="high", **how)

    @property
    def range(self):
        """The least and the largest value as floats; None while they are not known."""
        if not self.built:
            return None
        low, high = (float(keras.ops.convert_to_numpy(each)) for each in (self.low, self.high))
        return (low, high) if low < high else None

    def call(self, inputs, training=None):
        """The rounded inputs; in training the range is moved first."""
        if self.observes or training:
            self._move(keras.ops.stop_gradient(keras.ops.cast(inputs, "float32")))
        if self.observes:
            return inputs
        low, high = (keras.ops.convert_to_tensor(each) for each in (self.low, self.high))
        rounded = keras.quantizers.fake_quant_with_min_max_vars(inputs, low, high)
        return keras.ops.where(low < high, rounded, inputs)

    def _move(self, inputs):
        ops = keras.ops
        is_known = ops.less(self.low, self.high)
        found = ops.minimum(ops.min(inputs), 0.0), ops.maximum(ops.max(inputs), 0.0)
        if self.observes:
            moved = ops.minimum(self.low, found[0]), ops.maximum(self.high, found[1])
        else:
            momentum = ops.where(is_known, self.momentum, 0.0)
            before = self.low, self.high
            moved = [b * momentum + f * (1 - momentum) for b, f in zip(before, found, strict=True)]
        self.low.assign(moved[0])
        self.high.assign(moved[1])

    def compute_output_shape(self, input_shape):
        """The shape of the inputs."""
        return input_shape

    def get_config(self):
        """The arguments."""
        return {**super().get_config(), "momentum": self.momentum}


class WeightQuantizer:
    """Rounds a weight to multiples of a step, a step for each channel, as int8 weights are.

        q = round(w / s) * s,  s = max |w| / 127 over all but the axes of channels

    So 0 is exactly 0, and what was rounded stays the same when it is rounded again. The gradient
    is passed on as it is (straight-through).

    Args:
        axes: The axes over which a channel reaches: those that are not its index.

    Example:

    >>> rounded = WeightQuantizer([0])(tf.constant([[1.27], [0.004], [0.506], [0.0]]))
    >>> [round(float(value), 4) for value in rounded[:, 0]]
    [1.27, 0.0, 0.51, 0.0]
    """

    def __init__(self, axes):
        self.axes = tuple(int(axis) for axis in axes)

    def __call__(self, value):
        """The rounded tensor."""
        with _keras.gradients_kept_by_graphs():
            return _straight_through(value, self.steps(value))

    def steps(self, value):
        """The step of each channel, in a shape that broadcasts; 1 where a channel is all 0."""
        largest = tf.reduce_max(tf.abs(value), axis=self.axes, keepdims=True)
        return tf.where(largest > 0, largest / STEPS, tf.ones_like(largest))


@tf.custom_gradient
def _straight_through(value, steps):
    return tf.round(value / steps) * steps, lambda upstream: (upstream, None)
