"""Reads the models and arrays that commands are given; says in a line what is wrong with them."""

import os
import re
import stat
import warnings
import zipfile
import zlib

import keras
import numpy as np
import tensorflow as tf

from tfprune._tools.files import reason
from tfprune.cli.errors import InputError, one_line

_LOADING_ERRORS = (
    AttributeError,
    EOFError,
    ImportError,
    LookupError,
    NotImplementedError,
    OSError,
    OverflowError,
    RuntimeError,
    TypeError,
    ValueError,
    tf.errors.OpError,
    zipfile.BadZipFile,
    zlib.error,
)
"""The exceptions that Keras raises for damaged files and files that are not models."""

_MOST_DEFLATED = 1100
"""No deflated bytes stand for more than so many times as many."""


def model(path, unsafe=False, compiled=False):
    """The Keras model of a file.

    Args:
        path: A `pathlib.Path`.
        unsafe: Whether Python lambdas are loaded too.
        compiled: Whether its loss and optimizer are loaded, and must be there; or "if it was", to
            load them where they are.

    Raises:
        InputError: If there is none.
    """
    _check_readable(path, "Give a .keras file that `model.save` wrote.")
    if path.suffix == ".keras" and not zipfile.is_zipfile(path):
        raise InputError(
            f"{path} is not a model: it is no .keras archive, or not a whole one. "
            "Give a file that `model.save` wrote."
        )
    if zipfile.is_zipfile(path):
        _check_archive(path)
    try:
        with warnings.catch_warnings():  # of an optimizer that was saved before any training
            warnings.filterwarnings("ignore", "Skipping variable loading for optimizer")
            loaded = keras.models.load_model(path, compile=bool(compiled), safe_mode=not unsafe)
    except (MemoryError, tf.errors.ResourceExhaustedError) as error:
        raise InputError(
            f"{path} needs more memory than there is ({first_sentence(error)}). Look at the sizes "
            "of its layers."
        ) from error
    except _LOADING_ERRORS as error:
        raise InputError(_why_not_loaded(path, error)) from error
    if compiled is True and not loaded.compiled:
        raise InputError(
            f"{path} was saved without its loss and optimizer. Compile the model and save it again."
        )
    return loaded


def arrays(path, needed=("x", "y")):
    """The arrays of a `.npz` file: `x` and `y`, and `x_val` and `y_val` if it has them.

    Args:
        path: A `pathlib.Path`.
        needed: The names that must be there.

    Raises:
        InputError: If they cannot be read or are no data.
    """
    needs = " and ".join(needed)
    advice = f"Give one that `numpy.savez` wrote, with {needs}."
    _check_readable(path, advice)
    if not zipfile.is_zipfile(path):
        raise InputError(f"{path} is no .npz file. {advice}")
    _check_archive(path)
    try:
        with np.load(path, allow_pickle=False) as file:
            found = {name: file[name] for name in ("x", "y", "x_val", "y_val") if name in file}
            names = sorted(file)
    except (EOFError, MemoryError, OSError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        if "allow_pickle" in str(error):
            raise InputError(
                f"{path} holds Python objects, which can run any code when they are loaded. Give "
                "plain arrays of numbers."
            ) from error
        raise InputError(f"{path} cannot be read: {one_line(error)}") from error
    missing = [name for name in needed if name not in found]
    if missing or ("x_val" in found) != ("y_val" in found):
        raise InputError(
            f"{path} must hold {needs}, and x_val with y_val or neither. It has: {names}."
        )
    for name, array in found.items():
        if array.dtype.kind not in "biufSU":
            advice = "Convert it"
            if array.dtype.kind == "c":
                advice = "Give its real and imaginary parts as two features, say"
            raise InputError(
                f"{name} in {path} must be real numbers or strings, not {array.dtype}. {advice}."
            )
    for names in (("x", "y"), ("x_val", "y_val")):
        shapes = [found[name].shape for name in names if name in found]
        if not all(shapes) or len({shape[0] for shape in shapes}) > 1:
            raise InputError(
                f"{' and '.join(names)} in {path} must have one row a sample, not "
                f"{' and '.join(map(str, shapes))}."
            )
    return found


def check_there(path):
    """Raises an `InputError` unless there is something at a path."""
    if not os.path.lexists(path):
        raise InputError(f"there is no file {path}. Give what `tfprune export` or Keras wrote.")


def first_sentence(error):
    """The beginning of an error's message, without what frameworks put around it."""
    text = one_line(error).split("Exception encountered: ")[-1]
    text = re.sub(r"^\{\{[^}]*\}\} ?", "", text)
    return re.split(r"(?<=[.:]) | on /job:", text)[0].rstrip(".:")


def _check_readable(path, advice):
    try:
        kind = path.stat().st_mode
        if stat.S_ISREG(kind):
            path.open("rb").close()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise InputError(f"there is no file {path}. {advice}") from error
    except (OSError, ValueError) as error:
        why = reason(error) if isinstance(error, OSError) else one_line(error)
        raise InputError(f"{path} cannot be read: {why}.") from error
    if stat.S_ISDIR(kind):
        raise InputError(f"{path} is a directory. {advice}")
    if not stat.S_ISREG(kind):
        raise InputError(f"{path} is not a file. {advice}")


def _check_archive(path):
    """Refuses an archive whose contents are claimed to be larger than they can be, or than RAM."""
    try:
        with zipfile.ZipFile(path) as archive:
            parts = archive.infolist()
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise InputError(f"{path} is no archive that can be read: {one_line(error)}.") from error
    claimed, stored = sum(part.file_size for part in parts), path.stat().st_size
    if claimed > _MOST_DEFLATED * stored:
        raise InputError(
            f"{path} is damaged: it claims to hold {claimed:,} bytes, more than its {stored:,} can."
        )
    if claimed > _memory():
        raise InputError(
            f"{path} holds {claimed:,} bytes, more than this machine has memory ({_memory():,})."
        )


def _memory():
    """The bytes of memory of this machine."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # Windows: 1 TB, beyond which nothing is a model
        return 2**40


def _why_not_loaded(path, error):
    message = one_line(error)
    unknown = re.search(r"Could not locate (\w+) '([^']+)'", message)
    if unknown:
        return (
            f"{path} needs the {unknown[1]} {unknown[2]!r}, which is not one of Keras. Import it "
            "in Python, load the model there, and use `tfprune.strip` and `tfprune.export`."
        )
    if "safe_mode" in message:
        return (
            f"{path} holds a Python lambda, which can run any code. Give --unsafe if you trust "
            "where the file comes from."
        )
    return (
        f"{path} is not a model that Keras can load ({first_sentence(error)}). Give one that "
        "`model.save` wrote."
    )
