"""Calls functions of TensorFlow on symbolic tensors of Keras 3."""

import functools
import inspect
import reprlib

import tensorflow as tf
from keras import ops

from tfprune import _keras
from tfprune.interop.tf_keras import sizes
from tfprune.interop.tf_keras.description import leaves, mapped
from tfprune.interop.tf_keras.operations.base import (
    FUNCTIONS,
    NoEquivalentError,
    of_list,
)
from tfprune.interop.tf_keras.operations.elementwise import OF_TWO

_RENAMED = {
    "dim": "axis",
    "dimension": "axis",
    "squeeze_dims": "axis",
    "keep_dims": "keepdims",
    "reduction_indices": "axis",
    "stride": "strides",
}
"""Names of arguments in `tf.compat.v1`, and their names today."""

_CHANNELS_LAST = (None, "NWC", "NHWC", "NDHWC")

_ANYTHING = {"name", "validate_indices", "use_cudnn_on_gpu", "layout", "message"}
"""Arguments that change no result."""


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
    why = next((why for part, why in _REASONS.items() if part in name), None)
    if why is not None:
        raise NoEquivalentError(why)
    if not any(_keras.is_symbolic(leaf) or sizes.has_open(leaf) for leaf in given):
        return _evaluated(function, args, kwargs)
    ours = _table().get(id(_resolved(_current(name))))
    if ours is None:
        raise NoEquivalentError("Keras 3 has no equivalent")
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
        required[0] = ops.stack(of_list(required[0]))
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
    return name is not None and _current(name) in (*OF_TWO, "where")


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
        is_usual = name == "data_format" and value in _CHANNELS_LAST
        if parameter.kind is parameter.VAR_KEYWORD or name in _ANYTHING or is_usual:
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


@functools.cache
def _table():
    """The functions by the id of TensorFlow's, which may have several names."""
    return {id(_resolved(name)): function for name, function in FUNCTIONS.items()}
