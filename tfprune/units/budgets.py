"""Budgets: what may remain of a model when its units are pruned, or what accuracy may be lost.

A fraction counts from the dense model, which has all units, masked or not. So `Parameters(0.5)`
means the same before the first unit is pruned and after half of them are.

>>> Parameters(0.5), MACs(1_000_000), Latency(2.5, batch_size=32)
(Parameters(remaining=0.5), MACs(remaining=1000000, input_shapes=None), \
Latency(milliseconds=2.5, fraction=None, batch_size=32, input_shapes=None, tolerance=0.05, \
runtime='keras', threads=None, quantize=None, table=None))
"""

from tfprune._tools.registry import Registry
from tfprune.units.accuracy import Accuracy
from tfprune.units.budget_kinds import (
    KINDS,
    Budget,
    Bytes,
    Latency,
    MACs,
    Parameters,
    Units,
    UnmetError,
)

__all__ = [
    "Accuracy",
    "Budget",
    "Bytes",
    "Latency",
    "MACs",
    "Parameters",
    "UnmetError",
    "Units",
    "deserialize",
    "get",
    "serialize",
]

NAMES = tuple(cls.__name__ for cls in (*KINDS, Accuracy))
"""The class names in the configurations of targets."""

_REGISTRY = Registry(
    Budget,
    argument="budget",
    expected=f"one of {NAMES[:-1]} with its arguments, such as "
    "`tfprune.budgets.Parameters(0.5)`, or its configuration",
    classes=(*KINDS, Accuracy),
)
serialize, deserialize = _REGISTRY.serialize, _REGISTRY.deserialize


def get(identifier, argument="budget"):
    """Returns the `Budget` that an identifier means.

    Args:
        identifier: A budget, or the configuration of one.
        argument: String, how the caller calls the argument, for errors.

    Raises:
        ValueError: If it is neither.

    Example:

    >>> get({"class_name": "MACs", "config": {"remaining": 0.5}})
    MACs(remaining=0.5, input_shapes=None)
    """
    return _REGISTRY.get(identifier, argument)
