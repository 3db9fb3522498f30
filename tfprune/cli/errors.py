"""Errors of the commands, each of which is told in one line."""

import contextlib

from tfprune._tools.finite import NotFiniteError


class InputError(Exception):
    """Input that cannot be used: says what is wrong, and what to do. Exit code 2."""


class FailedError(Exception):
    """Data or the result were checked and are not what they should be. Exit code 1."""


@contextlib.contextmanager
def reported(*errors, failures=()):
    """Turns `errors` into `InputError` and `failures` into `FailedError`, in one line.

    NaN and infinity are a failure always.
    """
    try:
        yield
    except NotFiniteError as error:
        raise FailedError(one_line(error)) from error
    except errors as error:
        raise InputError(one_line(error)) from error
    except failures as error:
        raise FailedError(one_line(error)) from error


def one_line(error):
    """The message of an error without line breaks, or else its kind."""
    return " ".join(str(error).split()) or type(error).__name__
