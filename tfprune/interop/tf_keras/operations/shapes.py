"""Functions that move elements: reshape, transpose, concatenate, split."""

import keras
import numpy as np
from keras import ops

from tfprune import _keras
from tfprune.interop.tf_keras import sizes
from tfprune.interop.tf_keras.operations.base import (
    NoEquivalentError,
    axes_of,
    known,
    of_list,
    says,
)
from tfprune.interop.tf_keras.sizes import Size


@says("shape")
def _shape(input, out_type=None):
    return sizes.shape_of(input)


@says("size")
def _size(input, out_type=None):
    return np.prod(sizes.shape_of(input))


@says("rank")
def _rank(input):
    return np.int32(len(input.shape))


@says("reshape")
def _reshape(tensor, shape):
    if sizes.has_open(tensor):
        return np.reshape(tensor, known(shape, "shape"))
    wanted = sizes.as_sizes(shape)
    new = [-1 if isinstance(size, Size) else size for size in wanted]
    if new.count(-1) < 2:
        return ops.reshape(tensor, new)
    is_batch = isinstance(wanted[0], Size) and wanted[0].is_batch and tensor.shape[0] is None
    if is_batch and new.count(-1) == 2:
        return keras.layers.Reshape(new[1:])(tensor)
    raise NoEquivalentError("several sizes of its new shape are known only at run time")


@says("transpose")
def _transpose(a, perm=None):
    return ops.transpose(a, None if perm is None else known(perm, "permutation"))


@says("linalg.matrix_transpose")
def _matrix_transpose(a):
    return ops.swapaxes(a, -1, -2)


@says("expand_dims")
def _expand_dims(input, axis):
    if sizes.has_open(input):
        return np.expand_dims(np.asarray(input, object), int(axis))
    return ops.expand_dims(input, int(axis))


@says("squeeze")
def _squeeze(input, axis=None):
    return ops.squeeze(input, axis=axes_of(axis))


@says("concat")
def _concat(values, axis):
    if not any(_keras.is_symbolic(each) for each in values):
        return np.concatenate([np.asarray(each, object).ravel() for each in values])
    return ops.concatenate(of_list(values), axis=int(axis))


@says("stack")
def _stack(values, axis=0):
    if not any(_keras.is_symbolic(each) for each in values):
        return sizes.vector(sizes.as_sizes(list(values)))
    return ops.stack(of_list(values), axis=int(axis))


@says("unstack")
def _unstack(value, num=None, axis=0):
    if sizes.has_open(value):
        return list(value)
    return ops.unstack(value, num, axis=int(axis))


@says("split")
def _split(value, num_or_size_splits, axis=0, num=None):
    axis = int(axis)
    if np.ndim(num_or_size_splits) == 0:
        return ops.split(value, int(num_or_size_splits), axis=axis)
    parts = known(num_or_size_splits, "sizes")
    if -1 in parts:
        total = value.shape[axis]
        if total is None:
            raise NoEquivalentError("a size of its parts is known only at run time")
        parts[parts.index(-1)] = total - sum(part for part in parts if part != -1)
    return ops.split(value, [int(place) for place in np.cumsum(parts)[:-1]], axis=axis)
