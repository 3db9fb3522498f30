"""Straight-through masks: the k largest elements in the forward pass, the gradient of all."""

import math

import keras
import tensorflow as tf

from tfprune import _keras
from tfprune.masks.setting import masked_layers

_BROKEN_OFF = (
    "If training was broken off, call `finish(model)` of the callback it had, or `detach()` of the "
    "regularizer."
)


class TopKRead:
    """The weight as its layer reads it: all elements but those of largest magnitude are 0.

        forward:   w * m,  m = the `kept` elements of largest |w|, of equal ones the first
        backward:  d loss / d w = d loss / d (w * m), without the factor m

    Frozen elements are kept and count; pruned ones stay 0. `kept` is a variable: assigning to it
    retraces and recompiles nothing.

    Args:
        mask: The `WeightMask` of the weight.

    Example:

    >>> import tfprune
    >>> layer = tfprune.layers.Dense(1, use_bias=False)
    >>> layer.build((None, 3))
    >>> layer.set_weights([keras.ops.convert_to_tensor([[3.0], [-1.0], [-2.0]])])
    >>> read = TopKRead(layer.masks_by_name["kernel"])
    >>> _ = read.kept.assign(2)
    >>> read(layer.kernel.value).numpy().ravel().tolist()
    [3.0, 0.0, -2.0]
    """

    def __init__(self, mask):
        self.mask = mask
        self.size = math.prod(mask.weight.shape)
        self.kept = keras.Variable(self.size, dtype="int32", trainable=False, name="kept")

    def __call__(self, value):
        """The tensor that the layer computes with."""
        keep = top_magnitudes(
            value,
            self.kept.value,
            trainable=_keras.uncast(self.mask.trainable),
            frozen=_keras.uncast(self.mask.frozen),
        )
        with _keras.gradients_kept_by_graphs():
            return _straight_through(value, keep)


class MaskedRead:
    """The weight as its layer reads it: zeros where `kept` is False.

        forward:   w * kept
        backward:  d loss / d w = d loss / d (w * kept), without the factor `kept`

    `kept` is a variable: assigning to it retraces and recompiles nothing.

    Args:
        mask: The `WeightMask` of the weight.

    Example:

    >>> import tfprune
    >>> layer = tfprune.layers.Dense(1, use_bias=False)
    >>> layer.build((None, 3))
    >>> layer.set_weights([keras.ops.convert_to_tensor([[3.0], [-1.0], [-2.0]])])
    >>> read = MaskedRead(layer.masks_by_name["kernel"])
    >>> _ = read.kept.assign([[True], [True], [False]])
    >>> read(layer.kernel.value).numpy().ravel().tolist()
    [3.0, -1.0, 0.0]
    """

    def __init__(self, mask):
        self.kept = keras.Variable(
            initializer="ones",
            shape=tuple(mask.weight.shape),
            dtype="bool",
            trainable=False,
            autocast=False,
            aggregation="only_first_replica",
            name="kept",
        )

    def __call__(self, value):
        """The tensor that the layer computes with."""
        with _keras.gradients_kept_by_graphs():
            return _straight_through(value, _keras.uncast(self.kept))


def set_transforms(weights, transforms, owner):
    """Lets layers read weights through functions.

    Args:
        weights: `PrunableWeight`s.
        transforms: A function for each; see `WeightMask.transform`.
        owner: String, what does it, for errors.

    Raises:
        ValueError: If a weight is read through another function already. None is set then.
    """
    for weight in weights:
        if weight.mask.transform is not None:
            raise ValueError(
                "A weight can have one of `StraightThrough`, `DynamicSurgery` and `L0` at a time. "
                f"Received: layer={weight.layer.name!r}, weight={weight.name!r}, for {owner}. "
                f"{_BROKEN_OFF}"
            )
    for weight, transform in zip(weights, transforms, strict=True):
        weight.mask.transform = transform


def check_no_transforms(model):
    """Raises a `ValueError` if a layer reads a weight through a function: zeros are not stored."""
    for layer in masked_layers(model):
        for name, mask in layer.masks_by_name.items():
            if mask.transform is not None:
                raise ValueError(
                    "The model is being trained by `StraightThrough`, `DynamicSurgery` or `L0`, "
                    "which store what they prune as zeros when training ends. "
                    f"Received: model={model.name!r}, layer={layer.name!r}, weight={name!r}. "
                    f"{_BROKEN_OFF}"
                )


def top_magnitudes(value, count, *, trainable, frozen):
    """Returns a mask of the `count` elements of largest magnitude, as a tensor in the graph.

    As `tfprune.patterns.top_k_mask` of the magnitudes: of equal ones the first in C order.

    Args:
        value: Float tensor of any shape.
        count: Integer tensor, how many; what is pruned is never among them.
        trainable: Boolean tensor, False = pruned.
        frozen: Boolean tensor, True = is among them.

    Returns:
        A boolean tensor.
    """
    # The bits of a positive float are ordered as the float is, those of NaN come last. So the
    # smallest magnitude that stays is looked for among integers, with one count a try, where
    # `tf.math.top_k` would have to sort, and XLA would have to know the count.
    is_double = value.dtype == tf.float64
    order = tf.int64 if is_double else tf.int32
    magnitude = tf.abs(value if is_double else tf.cast(value, tf.float32))
    bits = tf.where(frozen, tf.constant(order.max, order), tf.bitcast(magnitude, order))
    bits = tf.reshape(tf.where(trainable, bits, tf.constant(-1, order)), [-1])
    largest = tf.bitcast(tf.reduce_max(magnitude), order)
    least, number = _least_kept(bits, count, largest)
    size = math.prod(value.shape)
    places = tf.range(size)

    def first_of_ties():
        above, equal = bits > least, bits == least
        missing, length = count - _number(above), size.bit_length()
        end = _greatest(length, tf.int32, lambda end: _number(equal & (places < end)) <= missing)
        return above | (equal & (places < end))

    kept = tf.cond(number == count, lambda: bits >= least, first_of_ties)  # mostly without ties
    return tf.reshape(kept, tf.shape(value)) | (frozen & trainable)


def _least_kept(bits, count, largest):
    """The smallest magnitude that is kept, as an integer, and how many are not smaller.

    The logarithm of the number of elements above a bound falls smoothly with the bound, so the next
    bound is interpolated between two with too many and too few; where one of them stays, its weight
    is halved (the Illinois method). If that does not find the bound soon, the interval is halved.

    Args:
        bits: Integer tensor of rank 1: the bits of magnitudes, larger than them for elements that
            are kept in any case, -1 for those that never are.
        count: Integer tensor, how many are kept.
        largest: The bits of the largest magnitude.

    Returns:
        Two scalar tensors: a bound of which as many elements as `count` are not smaller, and
        `count`; if there is none, because elements are equal, the greatest bound of which more are
        not smaller, and a number that is not `count`.

    Reference:
        M. Dowell, P. Jarratt, "A modified regula falsi method for computing the root of an
        equation", BIT 11, 1971.
    """
    order, size = bits.dtype, bits.shape[0]
    number = tf.float64 if order == tf.int64 else tf.float32

    def distance(found):
        """How far a number of elements is from `count`: the logarithm of their ratio."""
        share = tf.cast(found - count, number) / (tf.cast(count, number) + 0.5)
        return tf.abs(tf.math.log1p(share))

    def is_open(step, low, high, reached, *_):
        return (reached != count) & (high - low > 1)

    def narrowed(step, low, high, reached, over, under, was_enough):
        ends = tf.bitcast(low, number), tf.bitcast(high, number)
        guess = ends[0] + (ends[1] - ends[0]) * (over / (over + under))
        halfway = low + (high - low) // 2
        guess = tf.where(tf.math.is_finite(guess), tf.bitcast(guess, order), halfway)
        bound = tf.where(step < _GUESSES, tf.clip_by_value(guess, low + 1, high - 1), halfway)
        found = _number(bits >= bound)
        enough = found >= count
        beyond = distance(found)
        over, under = (
            tf.where(enough, beyond, tf.where(was_enough, over, over / 2)),
            tf.where(enough, tf.where(was_enough, under / 2, under), beyond),
        )
        low, high = tf.where(enough, bound, low), tf.where(enough, high, bound)
        return step + 1, low, high, tf.where(enough, found, reached), over, under, enough

    zero = tf.constant(0, order)
    weights = distance(tf.constant(size)), distance(tf.constant(0))
    start = (tf.constant(0), zero, largest + 1, tf.constant(size), *weights, tf.constant(True))
    most = _GUESSES + order.size * 8
    _, least, _, reached, *_ = tf.while_loop(is_open, narrowed, start, maximum_iterations=most)
    return least, reached


_GUESSES = 16
"""Bounds that are interpolated; on normal or uniform weights half of them are enough."""


def _number(flags):
    return tf.reduce_sum(tf.cast(flags, tf.int32))


def _greatest(length, dtype, holds):
    """The greatest integer of `length` bits up to which `holds` is true; 0 if it never is."""

    def next_bit(bit, found):
        candidate = found | tf.bitwise.left_shift(tf.constant(1, dtype), bit)
        return bit - 1, tf.where(holds(candidate), candidate, found)

    start = tf.constant(length - 1, dtype), tf.constant(0, dtype)
    return tf.while_loop(lambda bit, _: bit >= 0, next_bit, start, maximum_iterations=length)[1]


@tf.custom_gradient
def _straight_through(value, keep):
    """`value` with zeros where `keep` is False; its gradient is that of the result."""
    return tf.where(keep, value, tf.zeros((), value.dtype)), lambda upstream: (upstream, None)
