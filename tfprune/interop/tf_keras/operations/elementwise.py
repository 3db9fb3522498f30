"""Element-wise functions."""

import functools

import numpy as np
import tensorflow as tf
from keras import ops

from tfprune import _keras
from tfprune.interop.tf_keras import sizes
from tfprune.interop.tf_keras.operations.base import (
    FUNCTIONS,
    NoEquivalentError,
    alike,
    dtype_of,
    says,
)

_SAME = """
math.abs math.negative math.exp math.log math.log1p math.expm1 math.sqrt math.rsqrt math.square
math.sin math.cos math.tan math.sinh math.cosh math.asin math.acos math.atan math.tanh math.sigmoid
math.erf math.floor math.ceil math.round math.sign math.reciprocal math.is_nan math.is_inf
math.is_finite math.logical_not math.log_sigmoid nn.relu nn.relu6 nn.elu nn.selu math.softplus
nn.softsign stop_gradient
"""
_OTHER_NAMES = {
    "asin": "arcsin",
    "acos": "arccos",
    "atan": "arctan",
    "is_nan": "isnan",
    "is_inf": "isinf",
    "is_finite": "isfinite",
}
for _name in _SAME.split():
    _last = _name.split(".")[-1]
    FUNCTIONS[_name] = functools.partial(
        lambda function, x: function(x), getattr(ops, _OTHER_NAMES.get(_last, _last))
    )

OF_TWO = {
    "math.add": ops.add,
    "__operators__.add": ops.add,
    "math.subtract": ops.subtract,
    "math.multiply": ops.multiply,
    "math.truediv": ops.true_divide,
    "math.divide": ops.divide,
    "math.divide_no_nan": ops.divide_no_nan,
    "math.floordiv": ops.floor_divide,
    "math.floormod": ops.mod,
    "math.pow": ops.power,
    "math.maximum": ops.maximum,
    "math.minimum": ops.minimum,
    "math.squared_difference": lambda x, y: ops.square(ops.subtract(x, y)),
    "math.greater": ops.greater,
    "math.greater_equal": ops.greater_equal,
    "math.less": ops.less,
    "math.less_equal": ops.less_equal,
    "math.equal": ops.equal,
    "math.not_equal": ops.not_equal,
    "__operators__.eq": ops.equal,
    "__operators__.ne": ops.not_equal,
    "math.logical_and": ops.logical_and,
    "math.logical_or": ops.logical_or,
    "math.logical_xor": ops.logical_xor,
    "math.atan2": ops.arctan2,
    "math.scalar_mul": ops.multiply,
    "nn.bias_add": ops.add,
}
_ON_SIZES = {
    "math.add": lambda x, y: x + y,
    "__operators__.add": lambda x, y: x + y,
    "math.subtract": lambda x, y: x - y,
    "math.multiply": lambda x, y: x * y,
    "math.truediv": lambda x, y: x / y,
    "math.floordiv": lambda x, y: x // y,
    "math.floormod": lambda x, y: x % y,
}


def _of_two(name, function):
    def apply(x, y):
        if sizes.has_open(x) or sizes.has_open(y):
            if name not in _ON_SIZES or _keras.is_symbolic(x) or _keras.is_symbolic(y):
                raise NoEquivalentError("it computes with a size that is known only at run time")
            return _ON_SIZES[name](x, y)
        return function(alike(x, y), alike(y, x))

    return apply


for _name, _function in OF_TWO.items():
    FUNCTIONS[_name] = _of_two(_name, _function)


@says("identity", "ensure_shape", "grad_pass_through")
def _identity(x, shape=None):
    return x


@says("nn.leaky_relu")
def _leaky_relu(features, alpha=0.2):
    return ops.leaky_relu(features, negative_slope=float(alpha))


@says("nn.gelu")
def _gelu(features, approximate=False):
    return ops.gelu(features, approximate=bool(approximate))


@says("nn.silu")
def _silu(features, beta=1.0):
    return ops.silu(features) if beta == 1 else features * ops.sigmoid(features * float(beta))


@says("nn.softmax")
def _softmax(logits, axis=-1):
    return ops.softmax(logits, axis=int(axis))


@says("nn.log_softmax")
def _log_softmax(logits, axis=-1):
    return ops.log_softmax(logits, axis=int(axis))


@says("clip_by_value")
def _clip(t, clip_value_min, clip_value_max):
    return ops.clip(t, alike(clip_value_min, t), alike(clip_value_max, t))


@says("cast")
def _cast(x, dtype):
    if sizes.has_open(x):
        return x
    return ops.cast(x, dtype_of(dtype))


@says("where")
def _where(condition, x=None, y=None):
    if x is None or y is None:
        raise NoEquivalentError("its result has a size that depends on the values")
    tensor = next((each for each in (x, y) if _keras.is_symbolic(each)), None)
    if sizes.has_open(x) or sizes.has_open(y):
        return np.where(condition, x, y)
    if tensor is None:
        x, y = (np.asarray(tf.convert_to_tensor(each)) for each in (x, y))
        return ops.where(condition, x, y)
    return ops.where(condition, alike(x, tensor), alike(y, tensor))


@says("math.add_n")
def _add_n(inputs):
    return functools.reduce(ops.add, inputs)


@says("nn.batch_normalization")
def _batch_normalization(x, mean, variance, offset, scale, variance_epsilon):
    factor = ops.rsqrt(ops.add(alike(variance, x), float(variance_epsilon)))
    if scale is not None:
        factor = ops.multiply(factor, alike(scale, x))
    moved = ops.multiply(ops.subtract(x, alike(mean, x)), factor)
    return moved if offset is None else ops.add(moved, alike(offset, x))
