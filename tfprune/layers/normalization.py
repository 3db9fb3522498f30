"""Drop-in normalization layers with masks, and with statistics over the kept units only.

A unit of a normalized axis is kept while any of its weights (gamma, beta, scale) is. Removing a
unit changes how many units a mean is taken over, so the masked layer must leave it out already.
Each layer does so with the stock operation: pruned inputs are replaced by what leaves the sums
unchanged, and a factor `kept / all` corrects the count in epsilon and scale. With all units kept
the factor is 1, and the result is the stock layer's bit for bit.
"""

import functools
import math

import keras
from keras import ops

from tfprune.layers.masked import Masked


@keras.saving.register_keras_serializable("tfprune")
class BatchNormalization(Masked, keras.layers.BatchNormalization):
    """`keras.layers.BatchNormalization` with the same arguments, and masks on gamma and beta.

    Statistics are of one channel each, so pruned channels do not change those of others.

    Example:

    >>> from tfprune import layers
    >>> layer = layers.BatchNormalization()
    >>> outputs = layer(keras.ops.ones((2, 4)))
    >>> sorted(layer.trainable_masks)
    ['beta', 'gamma']
    """


@keras.saving.register_keras_serializable("tfprune")
class LayerNormalization(Masked, keras.layers.LayerNormalization):
    """`keras.layers.LayerNormalization` with masks; mean and variance over the kept units.

    A unit is left out of the statistics when both its gamma and its beta are pruned. Its output
    is then 0.

    Example:

    >>> import tfprune
    >>> layer = tfprune.layers.LayerNormalization(name="norm")
    >>> model = keras.Sequential([keras.Input((3,)), layer])
    >>> tfprune.set_masks(model, "norm", "gamma", trainable=[0, 1])
    >>> tfprune.set_masks(model, "norm", "beta", trainable=[0, 1])
    >>> y = model(keras.ops.array([[1.0, 3.0, 100.0]]))
    >>> [round(float(value), 2) for value in y[0]]
    [-1.0, 1.0, 0.0]
    """

    def call(self, inputs):
        """Normalises `inputs` over `axis`, counting the kept units only."""
        if not self.trainable_masks:
            return super().call(inputs)
        kept = _kept_units(self)
        axes = _positive_axes(self.axis, inputs)
        fraction = _kept_fraction(kept, inputs.dtype)
        outputs = ops.layer_normalization(
            _with_pruned_at_mean(inputs, _along(kept, inputs, axes), axes, fraction),
            _corrected(self.gamma, kept, fraction),
            self.beta,
            self.axis,
            self.epsilon * fraction,
            rms_scaling=self.rms_scaling,
        )
        return ops.cast(outputs, self.compute_dtype)


@keras.saving.register_keras_serializable("tfprune")
class RMSNormalization(Masked, keras.layers.RMSNormalization):
    """`keras.layers.RMSNormalization` with masks; mean square over the kept units.

    Example:

    >>> import tfprune
    >>> layer = tfprune.layers.RMSNormalization(name="norm")
    >>> model = keras.Sequential([keras.Input((3,)), layer])
    >>> tfprune.set_masks(model, "norm", "scale", trainable=[0, 1])
    >>> y = model(keras.ops.array([[2.0, 2.0, 100.0]]))
    >>> [round(float(value), 2) for value in y[0]]
    [1.0, 1.0, 0.0]
    """

    def call(self, x):
        """Normalises `x` over `axis`, counting the kept units only."""
        if not self.trainable_masks:
            return super().call(x)
        kept = _kept_units(self)
        fraction = _kept_fraction(kept, x.dtype)
        in_place = _along(kept, x, _positive_axes(self.axis, x))
        return ops.rms_normalization(
            ops.where(in_place, x, ops.zeros((), x.dtype)),
            scale=_corrected(self.scale, kept, fraction),
            axis=self.axis,
            epsilon=self.epsilon * fraction,
        )


@keras.saving.register_keras_serializable("tfprune")
class GroupNormalization(Masked, keras.layers.GroupNormalization):
    """`keras.layers.GroupNormalization` with masks; statistics over the kept units of a group.

    Example:

    >>> import tfprune
    >>> layer = tfprune.layers.GroupNormalization(groups=1, name="norm")
    >>> model = keras.Sequential([keras.Input((3,)), layer])
    >>> tfprune.set_masks(model, "norm", "gamma", trainable=[0, 1])
    >>> tfprune.set_masks(model, "norm", "beta", trainable=[0, 1])
    >>> y = model(keras.ops.array([[1.0, 3.0, 100.0]]))
    >>> [round(float(value), 2) for value in y[0]]
    [-1.0, 1.0, 0.0]
    """

    def call(self, inputs):
        """Normalises each group of channels, counting its kept units only."""
        if not self.trainable_masks:
            return super().call(inputs)
        axis = self.axis % len(inputs.shape)
        # Channels become (groups, channels in a group) at `axis` and `axis + 1`.
        grouped = (self.groups, inputs.shape[axis] // self.groups)
        in_place = [1] * axis + list(grouped) + [1] * (len(inputs.shape) - axis - 1)
        shape = ops.shape(inputs)
        x = ops.reshape(inputs, (*shape[:axis], *grouped, *shape[axis + 1 :]))
        x = ops.cast(x, keras.backend.result_type(x.dtype, "float32"))
        kept = ops.reshape(_kept_units(self), in_place)
        fraction = _kept_fraction(kept, x.dtype, axis=axis + 1)
        axes = [a for a in range(1, len(in_place)) if a != axis]
        x = _with_pruned_at_mean(x, kept, axes, fraction)
        mean, variance = ops.moments(x, axes=axes, keepdims=True)
        inverse = ops.rsqrt(variance + self.epsilon * fraction)
        gamma = None if self.gamma is None else ops.reshape(self.gamma, in_place)
        inverse = inverse * ops.cast(_corrected(gamma, kept, fraction), x.dtype)
        shift = -mean * inverse
        if self.beta is not None:
            shift = shift + ops.cast(ops.reshape(self.beta, in_place), x.dtype)
        outputs = ops.reshape(ops.cast(x * inverse + shift, inputs.dtype), shape)
        return ops.cast(outputs, self.compute_dtype)


def _kept_units(layer):
    """Whether any weight of a unit is kept: a boolean tensor of the weights' shape."""
    masks = [ops.convert_to_tensor(mask) for mask in layer.trainable_masks.values()]
    return functools.reduce(ops.logical_or, masks)


def _kept_fraction(kept, dtype, axis=None):
    """Kept units over all units, along `axis`; not less than one unit, against division by 0."""
    dtype = keras.backend.result_type(dtype, "float32")
    fraction = ops.mean(ops.cast(kept, dtype), axis=axis, keepdims=axis is not None)
    size = math.prod(kept.shape) if axis is None else kept.shape[axis]
    return ops.maximum(fraction, 1.0 / size)


def _positive_axes(axis, inputs):
    axes = [axis] if isinstance(axis, int) else axis
    return sorted(a % len(inputs.shape) for a in axes)


def _along(kept, inputs, axes):
    """`kept` shaped so that it broadcasts over `inputs`."""
    shape = [1] * len(inputs.shape)
    for axis in axes:
        shape[axis] = inputs.shape[axis]
    return ops.reshape(kept, shape)


def _with_pruned_at_mean(inputs, kept, axes, fraction):
    """`inputs` with the pruned units at the mean of the kept, which is then the mean of all."""
    zeros = ops.zeros((), fraction.dtype)
    mean = ops.mean(ops.where(kept, ops.cast(inputs, fraction.dtype), zeros), axes, keepdims=True)
    return ops.where(kept, inputs, ops.cast(mean / fraction, inputs.dtype))


def _corrected(scale, kept, fraction):
    """The scale for `epsilon * fraction`: var + e = (fraction var + fraction e) / fraction."""
    factor = ops.where(kept, ops.sqrt(fraction), ops.zeros((), fraction.dtype))
    return factor if scale is None else ops.cast(scale, fraction.dtype) * factor
