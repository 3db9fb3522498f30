"""Checks of arguments; the errors name the argument."""

import numbers


def integer(name, value, minimum):
    """The argument as an int."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < minimum:
        raise ValueError(
            f"Argument `{name}` must be an integer of at least {minimum}. "
            f"Received: {name}={value!r}."
        )
    return int(value)


def sparsity(name, value):
    """The argument as a float from 0 to 1."""
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not is_number or not 0 <= value <= 1:  # a NaN compares False
        raise ValueError(
            f"Argument `{name}` must be a number from 0 to 1. Received: {name}={value!r}."
        )
    return float(value)
