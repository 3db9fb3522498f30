"""Ctrl-C ends the command, and does not break off the cleaning up after it."""

import contextlib
import signal
import time

_SAME = 2.0  # seconds


@contextlib.contextmanager
def raised_once(last=False):
    """Raises `KeyboardInterrupt` for Ctrl-C; more of it within two seconds counts as the same.

    Args:
        last: Whether the process ends after it: from then on Ctrl-C is too late, and ignored.

    Yields:
        A list that holds an element for each that was raised. So it is known that one was, also
        where a library makes another error of it.
    """
    came = []

    def handler(*_):
        now = time.monotonic()
        if not came or now - came[-1] > _SAME:
            came.append(now)
            raise KeyboardInterrupt

    before = signal.getsignal(signal.SIGINT)
    try:
        if before != signal.SIG_IGN:  # as in the background of a shell
            signal.signal(signal.SIGINT, handler)
    except ValueError:  # signals come to the main thread alone
        before = None
    try:
        yield came
    finally:
        if before is not None:
            signal.signal(signal.SIGINT, signal.SIG_IGN if last else before)
