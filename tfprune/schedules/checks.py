"""Checks of arguments, with errors that name them, and exact arithmetic of times."""

import fractions
import numbers

from tfprune._tools.checks import is_integer, is_number

STEP, EPOCH = "step", "epoch"


def unit(value):
    """The argument `unit`: "step" or "epoch"."""
    if value not in (STEP, EPOCH):
        raise ValueError(f'Argument `unit` must be "step" or "epoch". Received: unit={value!r}.')
    return value


def time(name, value, unit, minimum=0):
    """The argument as an int of steps, or as epochs, whole or not; `minimum` itself may be."""
    if unit == STEP:
        return integer(name, value, minimum)
    if not is_number(value) or not minimum <= value < float("inf"):  # a NaN compares False
        raise ValueError(
            f"Argument `{name}` must be a number of epochs of at least {minimum}. "
            f"Received: {name}={value!r}."
        )
    return plain(exact(value))


def duration(name, value, unit):
    """The argument as a time above 0."""
    if unit == STEP:
        return integer(name, value, minimum=1)
    checked = time(name, value, unit)
    if checked == 0:
        raise ValueError(f"Argument `{name}` must be above 0 epochs. Received: {name}={value!r}.")
    return checked


def integer(name, value, minimum):
    """The argument as an int."""
    if not is_integer(value) or value < minimum:
        raise ValueError(
            f"Argument `{name}` must be an integer of at least {minimum}. "
            f"Received: {name}={value!r}."
        )
    return int(value)


def sparsity(name, value):
    """The argument as a float from 0 to 1."""
    if not is_number(value) or not 0 <= value <= 1:  # a NaN compares False
        raise ValueError(
            f"Argument `{name}` must be a number from 0 to 1. Received: {name}={value!r}."
        )
    return float(value)


def exact(time):
    """A time as an int or a fraction: 0.1 is a tenth, and three times that are three tenths.

    In floats 3 * 0.1 is more than 0.3, and an update due at epoch 0.3 would come a step late.
    """
    if isinstance(time, numbers.Integral):
        return int(time)
    if isinstance(time, fractions.Fraction):
        return time
    return fractions.Fraction(float(time)).limit_denominator(1_000_000)


def plain(time):
    """An exact time as an int where it is whole, else as a float."""
    return int(time.numerator) if time.denominator == 1 else float(time)
