"""Types of numbers that arguments take; a bool is neither an integer nor a number here."""

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
