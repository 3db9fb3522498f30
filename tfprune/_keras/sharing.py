"""What a copy of a model shares with the model: what has no state, or none that can be copied.

Private here, and why:

* `tf.__internal__.tracking.TrackableReference`: what a checkpoint finds the parts of an object by.
"""

import enum
import functools
import itertools
import sys
import types

import numpy as np
import tensorflow as tf

_VALUES = (str, bytes, int, float, complex, type, enum.Enum, type(None))
_VALUES += (types.ModuleType, types.BuiltinFunctionType)
CONTAINERS = (list, dict, tuple, set, frozenset)
FUNCTIONS = (types.FunctionType, types.MethodType, functools.partial)
_LIBRARIES = {*sys.stdlib_module_names, "tensorflow", "tensorflow_text", "numpy", "ml_dtypes"}
_LIBRARIES |= {"jax", "torch", "scipy", "pandas", "sentencepiece", "tokenizers", "PIL", "h5py"}
_LIBRARIES -= {"builtins"}


def is_shared(value):
    """Whether a copy of a model refers to `value` itself, whatever `value` refers to."""
    if isinstance(value, (*CONTAINERS, *FUNCTIONS, types.CellType, np.ndarray)):
        return False
    if isinstance(value, (types.SimpleNamespace, tf.__internal__.tracking.TrackableReference)):
        return False
    if isinstance(value, _VALUES):
        return True
    # What is freed when an object goes cannot belong to two.
    is_of_library = is_from(value, _LIBRARIES) or hasattr(type(value), "__del__")
    return is_of_library or not (hasattr(value, "__dict__") or slot_names(value))


def is_from(value, libraries):
    """Whether the class of a value is defined in one of some packages."""
    return type(value).__module__.partition(".")[0] in libraries


def slot_names(value):
    """The names of the attributes of an object that are not in its `__dict__`."""
    return _slots_of(type(value))


@functools.lru_cache(maxsize=1024)
def _slots_of(cls):
    found = []
    for base in cls.__mro__:
        slots = vars(base).get("__slots__", ())
        found += [slots] if isinstance(slots, str) else slots
    return [name for name in found if name not in ("__dict__", "__weakref__")]


def closure_values(function):
    """What a function refers to by its closure, its defaults and its attributes."""
    return [
        *itertools.chain.from_iterable(map(_contents, function.__closure__ or ())),
        *(function.__defaults__ or ()),
        *(function.__kwdefaults__ or {}).values(),
        *vars(function).values(),
    ]


def _contents(cell):
    try:
        return [cell.cell_contents]
    except ValueError:  # it is empty
        return []


def leads_to_copies(value, seen=None):
    """Whether a function, method or container refers to something that is copied."""
    seen = set() if seen is None else seen
    if id(value) in seen or isinstance(value, np.ndarray):
        return False
    seen.add(id(value))
    if isinstance(value, types.FunctionType):
        parts = closure_values(value)
    elif isinstance(value, types.MethodType):
        parts = [value.__self__, value.__func__]
    elif isinstance(value, functools.partial):
        parts = [value.func, *value.args, *value.keywords.values()]
    elif isinstance(value, dict):
        parts = [*value, *value.values()]
    elif isinstance(value, CONTAINERS):
        parts = list(value)
    else:
        return not is_shared(value)
    return any(leads_to_copies(part, seen) for part in parts)
