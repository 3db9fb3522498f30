"""Python's search for garbage in cycles."""

import contextlib
import gc


@contextlib.contextmanager
def without_collection():
    """While open, Python does not search for garbage in cycles.

    It does so again and again where many objects are made that all stay, as those of a model, and
    looks at all that there are in the process: that may take half as long as to make them.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
