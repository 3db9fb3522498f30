"""Errors of the commands, each of which is told in one line."""

import contextlib


class InputError(Exception):
    """Input that cannot be used: says what is wrong, and what to do. Exit code 2."""


class FailedError(Exception):
    """The result was checked and is not what it should be. Exit code 1."""


@contextlib.contextmanager
def reported(*errors, failures=()):
    """Turns `errors` into `InputError` and `failures` into `FailedError`, in one line."""
    try:
        yield
    except errors as error:
        raise InputError(one_line(error)) from error
    except failures as error:
        raise FailedError(one_line(error)) from error


def one_line(error):
    """The message of an error without line breaks, or else its kind."""
    return " ".join(str(error).split()) or type(error).__name__
