"""Schedules: how sparse a model has to be at a training step, and at which steps that changes.

A schedule is a pure function of the step, or of the epoch, so whoever follows it needs no memory of
its own: after an interruption the step tells what the model must look like.
"""

import inspect
import numbers

import keras

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

_ALL = {
    cls.__name__: cls
    for cls in (
        Chain,
        Constant,
        Cosine,
        Exponential,
        Function,
        InSteps,
        Linear,
        OneShot,
        Periodic,
        PolynomialDecay,
    )
}


_CONVERTERS = []


def converter(function):
    """Has `get` pass every identifier through a function, which converts those it knows."""
    _CONVERTERS.append(function)
    return function


def serialize(schedule):
    """The configuration of a schedule.

    Example:

    >>> serialize(OneShot(0.5, step=0))["class_name"]
    'OneShot'
    """
    return keras.saving.serialize_keras_object(schedule)


def deserialize(config, custom_objects=None):
    """A schedule out of its configuration.

    Args:
        config: Dict, as `serialize` returns it; `{"class_name": ..., "config": ...}` is enough.
        custom_objects: Dict of names to classes which are not registered with Keras.

    Example:

    >>> deserialize({"class_name": "OneShot", "config": {"target_sparsity": 0.5, "step": 0}})
    OneShot(target_sparsity=0.5, step=0, unit='step')
    """
    return keras.saving.deserialize_keras_object(config, {**_ALL, **(custom_objects or {})})


def get(identifier):
    """The schedule meant by an identifier.

    Args:
        identifier: A `Schedule`; a configuration of one; a number, for `Constant` at that
            sparsity; a callable step -> sparsity, for `Function`; or a schedule of tfmot.

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
    if isinstance(identifier, Schedule):
        return identifier
    if isinstance(identifier, numbers.Real) and not isinstance(identifier, bool):
        return Constant(identifier)
    if callable(identifier) and not inspect.isclass(identifier):
        return Function(identifier)
    raise ValueError(
        "Argument `schedule` must be a schedule with its arguments, such as "
        "`tfprune.schedules.Constant(0.5)`, its configuration, a number or a callable "
        f"step -> sparsity. Received: schedule={identifier!r}."
    )
