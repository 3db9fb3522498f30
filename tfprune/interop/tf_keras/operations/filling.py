"""Constants repeated to a size, which may be known only when a model runs."""

import numpy as np
import tensorflow as tf
from keras import ops

from tfprune import _keras
from tfprune.interop.tf_keras import sizes
from tfprune.interop.tf_keras.operations.base import (
    NoEquivalentError,
    axes_of,
    dtype_of,
    known,
    says,
)
from tfprune.interop.tf_keras.sizes import Size


@says("tile")
def _tile(input, multiples):
    wanted = sizes.as_sizes(multiples)
    if not any(isinstance(each, Size) for each in wanted):
        return ops.tile(input, wanted)
    is_first = isinstance(wanted[0], Size) and wanted[0].tensor is not None
    if not is_first or np.shape(input)[0] != 1:
        raise NoEquivalentError("how often is known only at run time")
    others = [1, *known(wanted[1:], "number of repeats")]
    if _keras.is_symbolic(input):
        repeated = input if set(others) == {1} else ops.tile(input, others)
    else:
        repeated = np.tile(np.asarray(tf.convert_to_tensor(input)), others)
    return _spread(repeated, wanted[0])


def _spread(values, size):
    """Values of length 1 on their first axis, repeated to a size there."""
    zeros = ops.reshape(sizes.zeros_along(size), [-1] + [1] * (len(values.shape) - 1))
    return ops.add(ops.cast(zeros, dtype_of(values.dtype)), values)


@says("broadcast_to")
def _broadcast_to(input, shape):
    wanted = sizes.as_sizes(shape)
    if not any(isinstance(each, Size) for each in wanted):
        return ops.broadcast_to(input, wanted)
    is_first = isinstance(wanted[0], Size) and wanted[0].tensor is not None
    is_only = sum(isinstance(each, Size) for each in wanted) == 1
    if not (is_first and is_only):
        raise NoEquivalentError("its shape is known only at run time")
    values = input if _keras.is_symbolic(input) else np.asarray(tf.convert_to_tensor(input))
    return _spread(ops.broadcast_to(values, [1, *wanted[1:]]), wanted[0])


def _filled(wanted, value):
    open_sizes = [each for each in wanted if isinstance(each, Size)]
    if len(open_sizes) != 1 or open_sizes[0].tensor is None:
        raise NoEquivalentError("its shape is known only at run time")
    return sizes.full(wanted, value)


@says("fill")
def _fill(dims, value):
    return _filled(sizes.as_sizes(dims), np.asarray(tf.convert_to_tensor(value)))


@says("zeros")
def _zeros(shape, dtype="float32"):
    return _filled(sizes.as_sizes(shape), np.zeros((), tf.as_dtype(dtype).as_numpy_dtype))


@says("ones")
def _ones(shape, dtype="float32"):
    return _filled(sizes.as_sizes(shape), np.ones((), tf.as_dtype(dtype).as_numpy_dtype))


@says("range")
def _range(start, limit=None, delta=1, dtype=None):
    start, limit = (0, start) if limit is None else (start, limit)
    is_plain = isinstance(start, (int, np.integer)) and start == 0 and delta == 1
    limit = limit.item() if isinstance(limit, np.ndarray) else limit
    if not (is_plain and isinstance(limit, Size) and limit.tensor is not None):
        raise NoEquivalentError("its limits are known only at run time")
    places = ops.subtract(ops.cumsum(ops.add(sizes.zeros_along(limit), 1)), 1)
    return places if dtype is None else ops.cast(places, dtype_of(dtype))


@says("zeros_like")
def _zeros_like(input, dtype=None):
    return ops.zeros_like(input, dtype=None if dtype is None else dtype_of(dtype))


@says("ones_like")
def _ones_like(input, dtype=None):
    if sizes.has_open(input):
        return np.ones(np.shape(input), "int32")
    return ops.ones_like(input, dtype=None if dtype is None else dtype_of(dtype))


@says("repeat")
def _repeat(input, repeats, axis=None):
    if isinstance(repeats, Size) and axis == 0:
        return _tile(input, [repeats] + [1] * (len(input.shape) - 1))
    return ops.repeat(input, int(np.asarray(repeats)), axis=axes_of(axis))
