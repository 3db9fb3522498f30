"""TensorFlow functions, said in Keras 3.

Each is a function of what the TensorFlow function takes: its required arguments by place, of the
others those that differ from TensorFlow's default by name. What such a function does not take is
refused. Arguments are symbolic tensors of Keras 3, constants, and `Size`s.
"""

import functools
import inspect
import math
import reprlib

import keras
import numpy as np
import tensorflow as tf
from keras import ops

from tfprune import _keras
from tfprune.interop.tf_keras import sizes
from tfprune.interop.tf_keras.description import leaves, mapped
from tfprune.interop.tf_keras.sizes import Size

_FUNCTIONS = {}
_RENAMED = {
    "dim": "axis",
    "dimension": "axis",
    "squeeze_dims": "axis",
    "keep_dims": "keepdims",
    "reduction_indices": "axis",
    "stride": "strides",
}
"""Names of arguments in `tf.compat.v1`, and their names today."""

_ANYTHING = {"name", "validate_indices", "use_cudnn_on_gpu", "layout", "message"}
"""Arguments that change no result."""


class NoEquivalentError(ValueError):
    """Raised for a function, or an argument of one, that cannot be said in Keras 3."""


def applied(name, args, kwargs, custom_objects):
    """The result of a TensorFlow function, from operations of Keras 3.

    Args:
        name: Its public name without `tf.`: "math.reduce_mean".
        args, kwargs: Arguments, symbolic ones as tensors of Keras 3.
        custom_objects: Dict in which the function may be, by its name; it then gets the required
            arguments by place, and by name those that are given and differ from their default.

    Raises:
        NoEquivalentError: If there is none; says why.
    """
    if name is None:
        raise NoEquivalentError("TensorFlow has no public name for it")
    function = _resolved(name)
    required, optional = _bound(function, args, kwargs)
    given = leaves((required, optional))
    if name in custom_objects:
        return custom_objects[name](*required, **optional)
    if not any(_keras.is_symbolic(leaf) or sizes.has_open(leaf) for leaf in given):
        return _evaluated(function, args, kwargs)
    ours = _table().get(id(_resolved(_current(name))))
    if ours is None:
        why = next((why for part, why in _REASONS.items() if part in name), None)
        raise NoEquivalentError(why or "Keras 3 has no equivalent")
    taken = inspect.signature(ours)
    unknown = {key: value for key, value in optional.items() if key not in taken.parameters}
    if unknown:
        said = ", ".join(f"{key}={reprlib.repr(value)}" for key, value in unknown.items())
        raise NoEquivalentError(f"Keras 3 has no equivalent with {said}")
    try:
        taken.bind(*required, **optional)
    except TypeError as error:
        raise NoEquivalentError(
            f"it is called without an argument that it needs: {error}"
        ) from error
    is_list = required and isinstance(required[0], (list, tuple)) and name not in _OF_LISTS
    if is_list and any(_keras.is_symbolic(leaf) for leaf in required[0]):
        required[0] = ops.stack(_of_list(required[0]))
    return mapped(ours(*required, **optional), sizes.settled)


_OF_LISTS = ("concat", "stack", "math.add_n", "compat.v1.concat")
"""Functions of several tensors; others take a list of tensors as one tensor."""


_REASONS = {
    "random.": "it draws random numbers in each call, in inference too",
    "nn.dropout": "it drops at random in inference too; `Dropout` is the layer for training",
    "boolean_mask": "its result has a size that depends on the values",
    "unique": "its result has a size that depends on the values",
}
"""Why functions have no equivalent, by a part of their name."""


def is_elementwise(name):
    """Whether a function combines tensors element by element, with NumPy's broadcasting."""
    return name is not None and _current(name) in (*_OF_TWO, "where")


def _current(name):
    """The name of a function today, for one of `tf.compat.v1`."""
    name = name.removeprefix("compat.v1.")
    return "math.floordiv" if name == "floor_div" else name


def _resolved(name):
    try:
        return functools.reduce(getattr, name.split("."), tf)
    except AttributeError as error:
        raise NoEquivalentError("this TensorFlow does not have it") from error


def _bound(function, args, kwargs):
    """The required arguments in their order, and the others that differ from their default."""
    try:
        bound = inspect.signature(function).bind(*args, **kwargs)
    except TypeError as error:
        raise NoEquivalentError(f"it was stored without all of its arguments ({error})") from error
    required, optional = [], {}
    for parameter in bound.signature.parameters.values():
        if parameter.kind is parameter.VAR_POSITIONAL and not bound.arguments.get(parameter.name):
            raise NoEquivalentError("it was stored without all of its arguments")
    for place, (name, value) in enumerate(bound.arguments.items()):
        parameter = bound.signature.parameters[name]
        if parameter.kind is parameter.VAR_KEYWORD or name in _ANYTHING:
            continue
        if parameter.kind is parameter.VAR_POSITIONAL:
            required.extend(value)
        elif parameter.default is parameter.empty or place == 0:
            required.append(value)
        elif not _is_equal(value, parameter.default) and value is not None:
            optional[_RENAMED.get(name, name)] = value
    return required, optional


def _is_equal(value, default):
    if isinstance(default, tf.DType):
        return tf.as_dtype(value) == default
    return isinstance(value, (int, float, str, bool, type(None))) and value == default


def _evaluated(function, args, kwargs):
    """The value of a function of constants."""
    kwargs = {name: value for name, value in kwargs.items() if value is not None}
    results = function(*args, **kwargs)
    return mapped(results, lambda leaf: leaf.numpy() if tf.is_tensor(leaf) else leaf)


# The table ----------------------------------------------------------------------------------------


def _says(*names):
    def register(function):
        for name in names:
            _FUNCTIONS[name] = function
        return function

    return register


@functools.cache
def _table():
    """The functions by the id of TensorFlow's, which may have several names."""
    return {id(_resolved(name)): function for name, function in _FUNCTIONS.items()}


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
    _FUNCTIONS[_name] = functools.partial(
        lambda function, x: function(x), getattr(ops, _OTHER_NAMES.get(_last, _last))
    )

_OF_TWO = {
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
        return function(_alike(x, y), _alike(y, x))

    return apply


for _name, _function in _OF_TWO.items():
    _FUNCTIONS[_name] = _of_two(_name, _function)


def _alike(value, other):
    """A constant in the dtype of the symbolic tensor it meets, as TensorFlow converts it."""
    if _keras.is_symbolic(value) or not _keras.is_symbolic(other):
        return value
    if isinstance(value, (bool, int, float)):
        return value
    return np.asarray(value, tf.as_dtype(other.dtype).as_numpy_dtype)


def _axes(axis):
    """Axes as a tuple, a number or None."""
    if isinstance(axis, (list, tuple, np.ndarray)):
        found = tuple(int(each) for each in np.ravel(axis))
        return found if np.ndim(axis) else found[0]
    return None if axis is None else int(axis)


def _known(value, what):
    """Integers of a shape, all known."""
    found = sizes.as_sizes(value)
    if any(isinstance(each, Size) for each in found):
        raise NoEquivalentError(f"its {what} is known only at run time")
    return found


# Element-wise functions ---------------------------------------------------------------------------


@_says("identity", "ensure_shape", "grad_pass_through")
def _identity(x, shape=None):
    return x


@_says("nn.leaky_relu")
def _leaky_relu(features, alpha=0.2):
    return ops.leaky_relu(features, negative_slope=float(alpha))


@_says("nn.gelu")
def _gelu(features, approximate=False):
    return ops.gelu(features, approximate=bool(approximate))


@_says("nn.silu")
def _silu(features, beta=1.0):
    return ops.silu(features) if beta == 1 else features * ops.sigmoid(features * float(beta))


@_says("nn.softmax")
def _softmax(logits, axis=-1):
    return ops.softmax(logits, axis=int(axis))


@_says("nn.log_softmax")
def _log_softmax(logits, axis=-1):
    return ops.log_softmax(logits, axis=int(axis))


@_says("clip_by_value")
def _clip(t, clip_value_min, clip_value_max):
    return ops.clip(t, _alike(clip_value_min, t), _alike(clip_value_max, t))


@_says("cast")
def _cast(x, dtype):
    if sizes.has_open(x):
        return x
    return ops.cast(x, _dtype(dtype))


def _dtype(dtype):
    return tf.as_dtype(dtype).name


@_says("where")
def _where(condition, x=None, y=None):
    if x is None or y is None:
        raise NoEquivalentError("its result has a size that depends on the values")
    tensor = next((each for each in (x, y) if _keras.is_symbolic(each)), None)
    if sizes.has_open(x) or sizes.has_open(y):
        return np.where(condition, x, y)
    if tensor is None:
        x, y = (np.asarray(tf.convert_to_tensor(each)) for each in (x, y))
        return ops.where(condition, x, y)
    return ops.where(condition, _alike(x, tensor), _alike(y, tensor))


@_says("math.add_n")
def _add_n(inputs):
    return functools.reduce(ops.add, inputs)


@_says("nn.batch_normalization")
def _batch_normalization(x, mean, variance, offset, scale, variance_epsilon):
    factor = ops.rsqrt(ops.add(_alike(variance, x), float(variance_epsilon)))
    if scale is not None:
        factor = ops.multiply(factor, _alike(scale, x))
    moved = ops.multiply(ops.subtract(x, _alike(mean, x)), factor)
    return moved if offset is None else ops.add(moved, _alike(offset, x))


# Reductions ---------------------------------------------------------------------------------------


def _reduction(function, is_mean=False):
    def apply(input_tensor, axis=None, keepdims=False):
        if sizes.has_open(input_tensor):
            return Size()
        if is_mean and not keras.backend.is_float_dtype(input_tensor.dtype):
            raise NoEquivalentError("the mean of integers is rounded in TensorFlow")
        return function(input_tensor, axis=_axes(axis), keepdims=bool(keepdims))

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
    _FUNCTIONS[f"math.reduce_{_name}"] = _reduction(_function)
for _name, _function in {"mean": ops.mean, "std": ops.std, "variance": ops.var}.items():
    _FUNCTIONS[f"math.reduce_{_name}"] = _reduction(_function, is_mean=True)


@_says("math.reduce_euclidean_norm")
def _euclidean_norm(input_tensor, axis=None, keepdims=False):
    squares = ops.sum(ops.square(input_tensor), axis=_axes(axis), keepdims=bool(keepdims))
    return ops.sqrt(squares)


@_says("norm")
def _norm(tensor, ord="euclidean", axis=None, keepdims=False):
    axis = _axes(axis)
    if ord == "euclidean" or (ord == 2 and not isinstance(axis, tuple)):
        return _euclidean_norm(tensor, axis, keepdims)
    if ord not in (1, math.inf) or isinstance(axis, tuple):
        raise NoEquivalentError(f"a norm with ord={ord!r} over axis={axis!r} is not known here")
    reduce = ops.sum if ord == 1 else ops.max
    return reduce(ops.abs(tensor), axis=axis, keepdims=bool(keepdims))


@_says("math.l2_normalize")
def _l2_normalize(x, axis=None, epsilon=1e-12):
    squares = ops.sum(ops.square(x), axis=_axes(axis), keepdims=True)
    return ops.multiply(x, ops.rsqrt(ops.maximum(squares, float(epsilon))))


@_says("math.argmax")
def _argmax(input, axis=0, output_type="int64"):
    return ops.cast(ops.argmax(input, axis=int(axis)), _dtype(output_type))


@_says("math.argmin")
def _argmin(input, axis=0, output_type="int64"):
    return ops.cast(ops.argmin(input, axis=int(axis)), _dtype(output_type))


@_says("math.top_k")
def _top_k(input, k=1, sorted=True):
    return ops.top_k(input, int(k), sorted=bool(sorted))


@_says("math.cumsum")
def _cumsum(x, axis=0, reverse=False):
    axis = int(axis)
    found = ops.cumsum(ops.flip(x, axis) if reverse else x, axis=axis)
    return ops.flip(found, axis) if reverse else found


@_says("sort")
def _sort(values, axis=-1, direction="ASCENDING"):
    found = ops.sort(values, axis=int(axis))
    return found if direction == "ASCENDING" else ops.flip(found, int(axis))


# Products -----------------------------------------------------------------------------------------


@_says("linalg.matmul")
def _matmul(a, b, transpose_a=False, transpose_b=False, adjoint_a=False, adjoint_b=False):
    a, b = _alike(a, b), _alike(b, a)
    a = ops.swapaxes(a, -1, -2) if transpose_a or adjoint_a else a
    return ops.matmul(a, ops.swapaxes(b, -1, -2) if transpose_b or adjoint_b else b)


@_says("linalg.matvec")
def _matvec(a, b):
    a, b = _alike(a, b), _alike(b, a)
    return ops.squeeze(ops.matmul(a, ops.expand_dims(b, -1)), -1)


@_says("einsum")
def _einsum(equation, *inputs):
    tensor = next(each for each in inputs if _keras.is_symbolic(each))
    return ops.einsum(equation.replace(" ", ""), *(_alike(each, tensor) for each in inputs))


@_says("tensordot")
def _tensordot(a, b, axes):
    axes = axes if isinstance(axes, int) else [list(np.ravel(each)) for each in axes]
    if isinstance(axes, list):
        axes = [[int(each) for each in one] for one in axes]
    return ops.tensordot(_alike(a, b), _alike(b, a), axes=axes)


# Shapes -------------------------------------------------------------------------------------------


@_says("shape")
def _shape(input, out_type=None):
    return sizes.shape_of(input)


@_says("size")
def _size(input, out_type=None):
    return np.prod(sizes.shape_of(input))


@_says("rank")
def _rank(input):
    return np.int32(len(input.shape))


@_says("reshape")
def _reshape(tensor, shape):
    if sizes.has_open(tensor):
        return np.reshape(tensor, _known(shape, "shape"))
    wanted = sizes.as_sizes(shape)
    new = [-1 if isinstance(size, Size) else size for size in wanted]
    if new.count(-1) < 2:
        return ops.reshape(tensor, new)
    is_batch = isinstance(wanted[0], Size) and wanted[0].is_batch and tensor.shape[0] is None
    if is_batch and new.count(-1) == 2:
        return keras.layers.Reshape(new[1:])(tensor)
    raise NoEquivalentError("several sizes of its new shape are known only at run time")


@_says("transpose")
def _transpose(a, perm=None):
    return ops.transpose(a, None if perm is None else _known(perm, "permutation"))


@_says("linalg.matrix_transpose")
def _matrix_transpose(a):
    return ops.swapaxes(a, -1, -2)


@_says("expand_dims")
def _expand_dims(input, axis):
    if sizes.has_open(input):
        return np.expand_dims(np.asarray(input, object), int(axis))
    return ops.expand_dims(input, int(axis))


@_says("squeeze")
def _squeeze(input, axis=None):
    return ops.squeeze(input, axis=_axes(axis))


def _of_list(values):
    values = list(values)
    tensor = next((each for each in values if _keras.is_symbolic(each)), None)
    return [value if tensor is None else _array_like(value, tensor) for value in values]


def _array_like(value, tensor):
    value = _alike(value, tensor)
    if isinstance(value, (bool, int, float)):
        value = np.asarray(value, tf.as_dtype(tensor.dtype).as_numpy_dtype)
    return value


@_says("concat")
def _concat(values, axis):
    if not any(_keras.is_symbolic(each) for each in values):
        return np.concatenate([np.asarray(each, object).ravel() for each in values])
    return ops.concatenate(_of_list(values), axis=int(axis))


@_says("stack")
def _stack(values, axis=0):
    if not any(_keras.is_symbolic(each) for each in values):
        return sizes.vector(sizes.as_sizes(list(values)))
    return ops.stack(_of_list(values), axis=int(axis))


@_says("unstack")
def _unstack(value, num=None, axis=0):
    if sizes.has_open(value):
        return list(value)
    return ops.unstack(value, num, axis=int(axis))


@_says("split")
def _split(value, num_or_size_splits, axis=0, num=None):
    axis = int(axis)
    if np.ndim(num_or_size_splits) == 0:
        return ops.split(value, int(num_or_size_splits), axis=axis)
    parts = _known(num_or_size_splits, "sizes")
    if -1 in parts:
        total = value.shape[axis]
        if total is None:
            raise NoEquivalentError("a size of its parts is known only at run time")
        parts[parts.index(-1)] = total - sum(part for part in parts if part != -1)
    return ops.split(value, [int(place) for place in np.cumsum(parts)[:-1]], axis=axis)


@_says("tile")
def _tile(input, multiples):
    wanted = sizes.as_sizes(multiples)
    if not any(isinstance(each, Size) for each in wanted):
        return ops.tile(input, wanted)
    is_first = isinstance(wanted[0], Size) and wanted[0].tensor is not None
    if not is_first or np.shape(input)[0] != 1:
        raise NoEquivalentError("how often is known only at run time")
    others = [1, *_known(wanted[1:], "number of repeats")]
    if _keras.is_symbolic(input):
        repeated = input if set(others) == {1} else ops.tile(input, others)
    else:
        repeated = np.tile(np.asarray(tf.convert_to_tensor(input)), others)
    return _spread(repeated, wanted[0])


def _spread(values, size):
    """Values of length 1 on their first axis, repeated to a size there."""
    zeros = ops.reshape(sizes.zeros_along(size), [-1] + [1] * (len(values.shape) - 1))
    return ops.add(ops.cast(zeros, _dtype(values.dtype)), values)


@_says("broadcast_to")
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


@_says("fill")
def _fill(dims, value):
    return _filled(sizes.as_sizes(dims), np.asarray(tf.convert_to_tensor(value)))


@_says("zeros")
def _zeros(shape, dtype="float32"):
    return _filled(sizes.as_sizes(shape), np.zeros((), tf.as_dtype(dtype).as_numpy_dtype))


@_says("ones")
def _ones(shape, dtype="float32"):
    return _filled(sizes.as_sizes(shape), np.ones((), tf.as_dtype(dtype).as_numpy_dtype))


@_says("range")
def _range(start, limit=None, delta=1, dtype=None):
    start, limit = (0, start) if limit is None else (start, limit)
    is_plain = isinstance(start, (int, np.integer)) and start == 0 and delta == 1
    limit = limit.item() if isinstance(limit, np.ndarray) else limit
    if not (is_plain and isinstance(limit, Size) and limit.tensor is not None):
        raise NoEquivalentError("its limits are known only at run time")
    places = ops.subtract(ops.cumsum(ops.add(sizes.zeros_along(limit), 1)), 1)
    return places if dtype is None else ops.cast(places, _dtype(dtype))


@_says("zeros_like")
def _zeros_like(input, dtype=None):
    return ops.zeros_like(input, dtype=None if dtype is None else _dtype(dtype))


@_says("ones_like")
def _ones_like(input, dtype=None):
    if sizes.has_open(input):
        return np.ones(np.shape(input), "int32")
    return ops.ones_like(input, dtype=None if dtype is None else _dtype(dtype))


@_says("repeat")
def _repeat(input, repeats, axis=None):
    if isinstance(repeats, Size) and axis == 0:
        return _tile(input, [repeats] + [1] * (len(input.shape) - 1))
    return ops.repeat(input, int(np.asarray(repeats)), axis=_axes(axis))


@_says("pad")
def _pad(tensor, paddings, mode="CONSTANT", constant_values=0):
    pairs = [[int(each) for each in pair] for pair in np.asarray(paddings)]
    if mode.upper() != "CONSTANT":
        return ops.pad(tensor, pairs, mode=mode.lower())
    return ops.pad(tensor, pairs, mode="constant", constant_values=constant_values)


@_says("reverse")
def _reverse(tensor, axis):
    return ops.flip(tensor, axis=_axes(axis))


@_says("roll")
def _roll(input, shift, axis):
    return ops.roll(input, _axes(shift), axis=_axes(axis))


@_says("gather")
def _gather(params, indices, axis=0):
    if sizes.has_open(params):
        return params[np.asarray(indices)]
    if not _keras.is_symbolic(indices):
        indices = np.asarray(indices)
    return ops.take(params, indices, axis=int(axis))


@_says("one_hot")
def _one_hot(indices, depth, axis=-1, dtype="float32"):
    return ops.one_hot(indices, int(np.asarray(depth)), axis=int(axis), dtype=_dtype(dtype))


@_says("__operators__.getitem")
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


@_says("slice")
def _slice(input_, begin, size):
    begin, size = _known(begin, "begin"), sizes.as_sizes(size)
    parts = []
    for start, length, whole in zip(begin, size, input_.shape, strict=True):
        if isinstance(length, Size):
            is_whole = length.is_batch and whole is None and start == 0
            if not is_whole:
                raise NoEquivalentError("its size is known only at run time")
            length = -1
        parts.append(slice(start, None if length == -1 else start + length))
    return input_[tuple(parts)]


@_says("strided_slice")
def _strided_slice(input_, begin, end, strides=None, begin_mask=0, end_mask=0, shrink_axis_mask=0):
    strides = [1] * len(begin) if strides is None else _known(strides, "strides")
    parts = []
    ends = sizes.as_sizes(end)
    for place, (start, stop, step) in enumerate(
        zip(_known(begin, "begin"), ends, strides, strict=True)
    ):
        bit = 1 << place
        if shrink_axis_mask & bit:
            parts.append(start)
            continue
        stop = None if end_mask & bit else _bound_of(stop)
        parts.append(slice(None if begin_mask & bit else start, stop, step))
    return input_[tuple(parts)]


# Images and convolutions --------------------------------------------------------------------------


def _window(value, rank):
    """Sizes or strides on the axes between batch and channels."""
    found = [int(each) for each in np.ravel(value)]
    if len(found) == rank + 2 and found[0] == found[-1] == 1:
        found = found[1:-1]
    found = found * rank if len(found) == 1 else found
    if len(found) != rank:
        raise NoEquivalentError(f"its window {value} is not one of Keras 3")
    return tuple(found)


def _pooling(function, rank):
    def apply(input, ksize, strides, padding):
        axes = len(input.shape) - 2 if rank is None else rank
        window, steps = _window(ksize, axes), _window(strides, axes)
        return function(input, window, steps, _padding(padding), data_format="channels_last")

    return apply


def _padding(padding):
    if not isinstance(padding, str):
        raise NoEquivalentError("it pads explicitly")
    return padding.lower()


for _name, _function in {"avg": ops.average_pool, "max": ops.max_pool}.items():
    for _rank in (1, 2, 3):
        _FUNCTIONS[f"nn.{_name}_pool{_rank}d"] = _pooling(_function, _rank)
    _FUNCTIONS[f"nn.{_name}_pool"] = _pooling(_function, None)


def _convolution(rank):
    # `tf.compat.v1` has two names for the filters, and requires neither.
    def apply(
        input, filters=None, strides=1, padding=None, dilations=1, data_format=None, filter=None
    ):
        filters = filter if filters is None else filters
        if data_format not in (None, "NWC", "NHWC"):
            raise NoEquivalentError(f"it has data_format={data_format!r}")
        where = {"data_format": "channels_last", "dilation_rate": _window(dilations, rank)}
        kernel = _alike(filters, input)
        return ops.conv(input, kernel, _window(strides, rank), _padding(padding), **where)

    return apply


_FUNCTIONS["nn.conv2d"] = _convolution(2)
_FUNCTIONS["nn.conv1d"] = _convolution(1)


@_says("nn.depthwise_conv2d")
def _depthwise(input, filter, strides, padding, dilations=1):
    where = {"data_format": "channels_last", "dilation_rate": _window(dilations, 2)}
    kernel = _alike(filter, input)
    return ops.depthwise_conv(input, kernel, _window(strides, 2), _padding(padding), **where)


@_says("nn.depth_to_space")
def _depth_to_space(input, block_size):
    return ops.depth_to_space(input, int(block_size), data_format="channels_last")


@_says("nn.space_to_depth")
def _space_to_depth(input, block_size):
    return ops.space_to_depth(input, int(block_size), data_format="channels_last")


@_says("image.resize")
def _resize(images, size, method="bilinear", antialias=False):
    if method not in ("bilinear", "nearest", "bicubic", "lanczos3", "lanczos5"):
        raise NoEquivalentError(f"the method {method!r} is none of Keras 3")
    new = tuple(_known(size, "size"))
    return ops.image.resize(
        images, new, interpolation=method, antialias=bool(antialias), data_format="channels_last"
    )


@_says("image.flip_left_right")
def _flip_left_right(image):
    return ops.flip(image, axis=-2)


@_says("image.flip_up_down")
def _flip_up_down(image):
    return ops.flip(image, axis=-3)


@_says("image.extract_patches")
def _extract_patches(images, sizes, strides, rates, padding):
    return ops.image.extract_patches(
        images,
        _window(sizes, 2),
        strides=_window(strides, 2),
        dilation_rate=_window(rates, 2)[0],
        padding=_padding(padding),
        data_format="channels_last",
    )
