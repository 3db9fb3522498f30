"""Reductions, and products of tensors."""

import math

import keras
import numpy as np
from keras import ops

from tfprune import _keras
from tfprune.interop.tf_keras import sizes
from tfprune.interop.tf_keras.operations.base import (
    FUNCTIONS,
    NoEquivalentError,
    alike,
    axes_of,
    dtype_of,
    says,
)
from tfprune.interop.tf_keras.sizes import Size


def _reduction(function, is_mean=False):
    def apply(input_tensor, axis=None, keepdims=False):
        if sizes.has_open(input_tensor):
            return Size()
        if is_mean and not keras.backend.is_float_dtype(input_tensor.dtype):
            raise NoEquivalentError("the mean of integers is rounded in TensorFlow")
        return function(input_tensor, axis=axes_of(axis), keepdims=bool(keepdims))

    return apply


for _name, _function in {
    "sum": ops.sum,
    "max": ops.max,
    "min": ops.min,
    "prod": ops.prod,
    "any": ops.any,
    "all": ops.all,
    "logsumexp": ops.logsumexp,
}.items():
    FUNCTIONS[f"math.reduce_{_name}"] = _reduction(_function)
for _name, _function in {"mean": ops.mean, "std": ops.std, "variance": ops.var}.items():
    FUNCTIONS[f"math.reduce_{_name}"] = _reduction(_function, is_mean=True)


@says("math.reduce_euclidean_norm")
def _euclidean_norm(input_tensor, axis=None, keepdims=False):
    squares = ops.sum(ops.square(input_tensor), axis=axes_of(axis), keepdims=bool(keepdims))
    return ops.sqrt(squares)


@says("norm")
def _norm(tensor, ord="euclidean", axis=None, keepdims=False):
    axis = axes_of(axis)
    if ord == "euclidean" or (ord == 2 and not isinstance(axis, tuple)):
        return _euclidean_norm(tensor, axis, keepdims)
    if ord not in (1, math.inf) or isinstance(axis, tuple):
        raise NoEquivalentError(f"a norm with ord={ord!r} over axis={axis!r} is not known here")
    reduce = ops.sum if ord == 1 else ops.max
    return reduce(ops.abs(tensor), axis=axis, keepdims=bool(keepdims))


@says("math.l2_normalize")
def _l2_normalize(x, axis=None, epsilon=1e-12):
    squares = ops.sum(ops.square(x), axis=axes_of(axis), keepdims=True)
    return ops.multiply(x, ops.rsqrt(ops.maximum(squares, float(epsilon))))


@says("math.argmax")
def _argmax(input, axis=0, output_type="int64"):
    return ops.cast(ops.argmax(input, axis=int(axis)), dtype_of(output_type))


@says("math.argmin")
def _argmin(input, axis=0, output_type="int64"):
    return ops.cast(ops.argmin(input, axis=int(axis)), dtype_of(output_type))


@says("math.top_k")
def _top_k(input, k=1, sorted=True):
    return ops.top_k(input, int(k), sorted=bool(sorted))


@says("math.cumsum")
def _cumsum(x, axis=0, reverse=False):
    axis = int(axis)
    found = ops.cumsum(ops.flip(x, axis) if reverse else x, axis=axis)
    return ops.flip(found, axis) if reverse else found


@says("sort")
def _sort(values, axis=-1, direction="ASCENDING"):
    found = ops.sort(values, axis=int(axis))
    return found if direction == "ASCENDING" else ops.flip(found, int(axis))


@says("linalg.matmul")
def _matmul(a, b, transpose_a=False, transpose_b=False, adjoint_a=False, adjoint_b=False):
    a, b = alike(a, b), alike(b, a)
    a = ops.swapaxes(a, -1, -2) if transpose_a or adjoint_a else a
    return ops.matmul(a, ops.swapaxes(b, -1, -2) if transpose_b or adjoint_b else b)


@says("linalg.matvec")
def _matvec(a, b):
    a, b = alike(a, b), alike(b, a)
    return ops.squeeze(ops.matmul(a, ops.expand_dims(b, -1)), -1)


@says("einsum")
def _einsum(equation, *inputs):
    tensor = next(each for each in inputs if _keras.is_symbolic(each))
    return ops.einsum(equation.replace(" ", ""), *(alike(each, tensor) for each in inputs))


@says("tensordot")
def _tensordot(a, b, axes):
    axes = axes if isinstance(axes, int) else [list(np.ravel(each)) for each in axes]
    if isinstance(axes, list):
        axes = [[int(each) for each in one] for one in axes]
    return ops.tensordot(alike(a, b), alike(b, a), axes=axes)
