"""Schedules map a training step to a sparsity, and say at which steps masks are updated.

A schedule is a pure function of the step, or of the epoch, so callbacks that follow one have no
state to save: after an interruption the step tells how sparse the model must be.

>>> deserialize({"class_name": "OneShot", "config": {"target_sparsity": 0.5, "step": 0}})
OneShot(target_sparsity=0.5, step=0, unit='step')
"""

import inspect

from tfprune._tools.checks import is_number
from tfprune._tools.registry import Registry
from tfprune.schedules import checks
from tfprune.schedules.base import FOREVER, InSteps, Schedule
from tfprune.schedules.compositions import Chain, Periodic
from tfprune.schedules.constant import Constant, OneShot
from tfprune.schedules.curves import Cosine, Exponential, Linear, PolynomialDecay
from tfprune.schedules.function import Function

__all__ = [
    "FOREVER",
    "Chain",
    "Constant",
    "Cosine",
    "Exponential",
    "Function",
    "InSteps",
    "Linear",
    "OneShot",
    "Periodic",
    "PolynomialDecay",
    "Schedule",
    "converter",
    "deserialize",
    "get",
    "serialize",
]

_REGISTRY = Registry(
    Schedule,
    argument="schedule",
    expected="a schedule with its arguments, such as `tfprune.schedules.Constant(0.5)`, its "
    "configuration, a number or a callable step -> sparsity",
    classes=(Chain, Constant, Cosine, Exponential, Function, InSteps)
    + (Linear, OneShot, Periodic, PolynomialDecay),
)
serialize, deserialize = _REGISTRY.serialize, _REGISTRY.deserialize

_CONVERTERS = []


def converter(function):
    """Registers a function which `get` passes every identifier through, to convert other types."""
    _CONVERTERS.append(function)
    return function


def get(identifier, argument="schedule"):
    """Returns the `Schedule` that an identifier means.

    Args:
        identifier: A `Schedule`; a configuration of one; a number, for `Constant` at that
            sparsity; a callable step -> sparsity, for `Function`; or a schedule of tfmot.
        argument: String, how the caller calls the argument, for errors.

    Raises:
        ValueError: If it is none of these.

    Example:

    >>> get(0.5)
    Constant(target_sparsity=0.5, begin_step=0, end_step=-1, frequency=100, unit='step')
    """
    for convert in _CONVERTERS:
        identifier = convert(identifier)
    if isinstance(identifier, dict):
        identifier = deserialize(identifier)
    if is_number(identifier):
        return Constant(checks.sparsity(argument, identifier))
    if isinstance(identifier, Schedule) or inspect.isclass(identifier) or not callable(identifier):
        return _REGISTRY.get(identifier, argument)
    return Function(identifier)
