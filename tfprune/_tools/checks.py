"""Checks of arguments; a bool is neither an integer nor a number here."""

import numbers


def is_integer(value):
    """Whether a value is an integer, of Python or NumPy."""
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def is_number(value):
    """Whether a value is a real number, of Python or NumPy.

    >>> is_number(0.5), is_number(True), is_integer(3), is_integer(3.0)
    (True, False, True, False)
    """
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def check_integer(argument, value, least=1):
    """Raises a `ValueError` unless a value is an integer of at least `least`."""
    if not is_integer(value) or value < least:
        raise ValueError(
            f"Argument `{argument}` must be an integer of at least {least}. "
            f"Received: {argument}={value!r}."
        )


def one_of(argument, value, known):
    """The value, if it is among those that are known.

    Raises:
        ValueError: If it is not.
    """
    if value not in known:
        raise ValueError(
            f"Argument `{argument}` must be one of {list(known)}. Received: {argument}={value!r}."
        )
    return value
