"""Sizes of tensors that are known only when a model runs, where TensorFlow counts with them."""

import operator

import keras
import numpy as np
from keras import ops


class Size:
    """A size of a symbolic tensor that its shape leaves open, or a number made of one.

    Attributes:
        tensor, axis: The tensor and the axis that it is the size of; None for a number made of it.
    """

    def __init__(self, tensor=None, axis=None):
        self.tensor, self.axis = tensor, axis

    def _number_of(self, *_):
        return Size()

    def __sub__(self, other):
        is_same = isinstance(other, Size) and self.is_batch and other.is_batch
        return 0 if is_same else Size()

    __add__ = __radd__ = __rsub__ = __mul__ = __rmul__ = _number_of
    __floordiv__ = __rfloordiv__ = __truediv__ = __mod__ = __neg__ = _number_of

    def __repr__(self):
        return "?"

    @property
    def is_batch(self):
        """Whether it is the number of examples."""
        return self.axis == 0


def shape_of(tensor):
    """The shape of a tensor as TensorFlow gives it: an array of integers, and `Size`s if some are
    open."""
    sizes = [Size(tensor, i) if size is None else size for i, size in enumerate(tensor.shape)]
    return vector(sizes)


def vector(values):
    """An array of integers, or of objects where `Size`s are among them."""
    is_open = any(isinstance(value, Size) for value in values)
    if not is_open:
        return np.array(values, "int32")
    found = np.empty(len(values), object)
    found[:] = values
    return found


def settled(value):
    """An array of objects as one of integers, if no `Size` is left in it."""
    is_closed = isinstance(value, np.ndarray) and value.dtype == object and not has_open(value)
    return value.astype("int32") if is_closed else value


def has_open(value):
    """Whether a value is or holds a `Size`."""
    if isinstance(value, np.ndarray) and value.dtype == object:
        return any(isinstance(each, Size) for each in value.flat)
    return isinstance(value, Size)


def as_sizes(value):
    """A shape as a list of integers and `Size`s."""
    found = []
    for each in value if isinstance(value, (list, tuple)) else list(np.asarray(value, object).flat):
        if isinstance(each, np.ndarray):
            found.extend(as_sizes(each))
        else:
            found.append(
                each if isinstance(each, Size) else operator.index(np.asarray(each).item())
            )
    return found


def zeros_along(size):
    """A symbolic vector of zeros, int32, as long as a size of a tensor."""
    axes = tuple(axis for axis in range(len(size.tensor.shape)) if axis != size.axis)
    zeros = ops.zeros_like(size.tensor, dtype="int32")
    return ops.sum(zeros, axis=axes) if axes else zeros


def zero_of(tensor):
    """A symbolic 0, int32."""
    return ops.sum(ops.zeros_like(tensor, dtype="int32"))


def full(sizes, value):
    """A symbolic tensor of equal elements, for a shape with a single open size."""
    value = np.asarray(value)
    place = next(i for i, size in enumerate(sizes) if isinstance(size, Size))
    along = ops.reshape(
        zeros_along(sizes[place]), [-1 if i == place else 1 for i in range(len(sizes))]
    )
    fixed = [1 if isinstance(size, Size) else size for size in sizes]
    constant = np.broadcast_to(value, fixed).astype(value.dtype)
    return ops.add(ops.cast(along, keras.backend.standardize_dtype(value.dtype)), constant)
