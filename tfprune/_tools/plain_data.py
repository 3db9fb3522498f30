"""Plain data of Python and NumPy, as JSON and arrays beside it: no code runs when it is read."""

import json
import random
import sys
import zlib

import ml_dtypes  # noqa: F401 - so that NumPy knows bfloat16 by its name
import numpy as np


class NotPlainError(TypeError):
    """A value that is no plain data."""


def pack(value, arrays):
    """A value as what JSON can say.

    Args:
        value: Numbers, strings, None, arrays, lists, tuples, sets and dicts of these; functions of
            modules, by their names; and random generators of NumPy and Python, of which the state
            is taken.
        arrays: A list, to which the arrays are added.

    Raises:
        NotPlainError: If there is something else in it.

    >>> arrays = []
    >>> pack({"best": 0.5, 3: [None, np.ones(2)]}, arrays)
    {'dict': [['best', 0.5], [3, {'list': [None, {'array': 0, 'dtype': 'float64'}]}]]}
    """
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, (np.ndarray, np.generic)) and _is_numeric(value.dtype):
        arrays.append(np.array(value))
        kind = "array" if isinstance(value, np.ndarray) else "scalar"
        return {kind: len(arrays) - 1, "dtype": value.dtype.name}
    for kind in (list, tuple, set, frozenset):
        if type(value) is kind:
            return {kind.__name__: [pack(each, arrays) for each in value]}
    if type(value) is dict:
        return {"dict": [[pack(k, arrays), pack(v, arrays)] for k, v in value.items()]}
    state = _random_state(value)
    if state is not None:
        return {"random": pack(state, arrays)}
    if callable(value):
        module, name = getattr(value, "__module__", None), getattr(value, "__name__", None)
        if _function(module, name) is value:
            return {"function": [module, name]}
    raise NotPlainError(type(value).__name__)


def unpack(packed, arrays, current=None):
    """The value that `pack` took; a random generator is the current one, set to its state."""
    if not isinstance(packed, dict):
        return packed
    ((kind, content),) = ((k, v) for k, v in packed.items() if k != "dtype")
    if kind in ("array", "scalar"):
        array = restored(arrays[content], packed["dtype"])
        return array if kind == "array" else array[()]
    if kind == "dict":
        return {unpack(k, arrays): unpack(v, arrays) for k, v in content}
    if kind == "random":
        _set_random_state(current, unpack(content, arrays))
        return current
    if kind == "function":
        return _function(*content)
    kinds = {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset}
    return kinds[kind](unpack(each, arrays) for each in content)


def fingerprint(packed, arrays):
    """A string that another value does not have: what `pack` gave, and sums over its arrays."""
    sums = [(array.shape, zlib.crc32(np.ascontiguousarray(array).tobytes())) for array in arrays]
    return f"{json.dumps(packed)} {sums}"


def stored(array):
    """An array as files of arrays know it: bfloat16 and float8 as their bits."""
    return array.view(f"u{array.dtype.itemsize}") if array.dtype.kind == "V" else array


def restored(array, dtype):
    """An array of the dtype, given by its name, that it had before it was `stored`."""
    dtype = np.dtype(dtype)
    return array.view(dtype) if dtype.kind == "V" else array


def _is_numeric(dtype):
    return dtype.kind in "biufc" or (dtype.kind == "V" and dtype.names is None)


def _function(module, name):
    """A function of a module that is imported already; None if there is none."""
    return getattr(sys.modules.get(module), name or "", None)


def _random_state(value):
    if isinstance(value, np.random.Generator):
        return value.bit_generator.state
    if isinstance(value, np.random.RandomState):
        return value.get_state(legacy=False)
    return value.getstate() if type(value) is random.Random else None


def _set_random_state(value, state):
    if isinstance(value, np.random.Generator):
        value.bit_generator.state = state
    elif isinstance(value, np.random.RandomState):
        value.set_state(state)
    elif isinstance(value, random.Random):
        value.setstate(state)
