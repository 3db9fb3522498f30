"""What is said of a `call` of a user's class that fails on symbolic tensors."""

import inspect
import textwrap
import traceback
from pathlib import Path

from tfprune import _keras


def failure(call, error):
    """Where a `call` failed, by the last line of its file, with the exception's words.

    Also the line of `call` itself, which may be another: that of a call of a function in the file.
    """
    frames = traceback.extract_tb(error.__traceback__)
    code = getattr(inspect.unwrap(call), "__code__", None)
    own = [frame for frame in frames if code is None or frame.filename == code.co_filename]
    frame = (own or frames)[-1]
    words = str(error)
    if not isinstance(error, _keras.UnreadableError):
        words = f"{type(error).__name__}: {core(words)}"
    return f"line {frame.lineno} of {Path(frame.filename).name}: {words}", (own or frames)[0].lineno


def core(words):
    """An exception's words on one line, without what Keras writes around them."""
    if words.startswith("Exception encountered when calling"):
        words = words.partition("\x1b[1m")[2].partition("\x1b[0m")[0] or words
    return textwrap.shorten(words, 240, placeholder=" ...")
