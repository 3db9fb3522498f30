"""Functions that select and pad elements."""

import numpy as np
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


@says("pad")
def _pad(tensor, paddings, mode="CONSTANT", constant_values=0):
    pairs = [[int(each) for each in pair] for pair in np.asarray(paddings)]
    if mode.upper() != "CONSTANT":
        return ops.pad(tensor, pairs, mode=mode.lower())
    return ops.pad(tensor, pairs, mode="constant", constant_values=constant_values)


@says("reverse")
def _reverse(tensor, axis):
    return ops.flip(tensor, axis=axes_of(axis))


@says("roll")
def _roll(input, shift, axis):
    return ops.roll(input, axes_of(shift), axis=axes_of(axis))


@says("gather")
def _gather(params, indices, axis=0):
    if sizes.has_open(params):
        return params[np.asarray(indices)]
    if not _keras.is_symbolic(indices):
        indices = np.asarray(indices)
    return ops.take(params, indices, axis=int(axis))


@says("one_hot")
def _one_hot(indices, depth, axis=-1, dtype="float32"):
    return ops.one_hot(indices, int(np.asarray(depth)), axis=int(axis), dtype=dtype_of(dtype))


@says("__operators__.getitem")
def _getitem(tensor, slice_spec):
    parts = slice_spec if isinstance(slice_spec, (list, tuple)) else [slice_spec]
    parts = tuple(_index(part) for part in parts)
    if sizes.has_open(tensor):
        return tensor[parts]
    if parts == (None,):
        return ops.expand_dims(tensor, 0)
    return tensor[parts if len(parts) > 1 else parts[0]]


def _index(part):
    if isinstance(part, dict) and part.get("class_name") == "__ellipsis__":
        return Ellipsis
    if isinstance(part, dict):
        part = slice(part["start"], part["stop"], part["step"])
    if isinstance(part, slice):
        return slice(*(_bound_of(each) for each in (part.start, part.stop, part.step)))
    if part is None or part is Ellipsis:
        return part
    return _bound_of(part)


def _bound_of(value):
    if value is None:
        return None
    if _keras.is_symbolic(value) or sizes.has_open(value):
        raise NoEquivalentError("an index is known only at run time")
    if np.ndim(value):
        raise NoEquivalentError("it is indexed by an array")
    return int(value)


@says("slice")
def _slice(input_, begin, size):
    begin, size = known(begin, "begin"), sizes.as_sizes(size)
    parts = []
    for start, length, whole in zip(begin, size, input_.shape, strict=True):
        if isinstance(length, Size):
            is_whole = length.is_batch and whole is None and start == 0
            if not is_whole:
                raise NoEquivalentError("its size is known only at run time")
            length = -1
        parts.append(slice(start, None if length == -1 else start + length))
    return input_[tuple(parts)]


@says("strided_slice")
def _strided_slice(input_, begin, end, strides=None, begin_mask=0, end_mask=0, shrink_axis_mask=0):
    strides = [1] * len(begin) if strides is None else known(strides, "strides")
    parts = []
    ends = sizes.as_sizes(end)
    for place, (start, stop, step) in enumerate(
        zip(known(begin, "begin"), ends, strides, strict=True)
    ):
        bit = 1 << place
        if shrink_axis_mask & bit:
            parts.append(start)
            continue
        stop = None if end_mask & bit else _bound_of(stop)
        parts.append(slice(None if begin_mask & bit else start, stop, step))
    return input_[tuple(parts)]
