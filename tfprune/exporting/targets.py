"""Where a model is exported to: the format, whether the path may be written, and what failed."""

import contextlib
import errno
import inspect
import os
import pathlib

import tensorflow as tf

from tfprune._tools.files import reason
from tfprune.exporting import keras_file, litert, onnx_file, saved_model

_FORMATS = {
    "keras": keras_file,
    "litert": litert,
    "onnx": onnx_file,
    "saved_model": saved_model,
}
SUFFIXES = {name: module.SUFFIX for name, module in _FORMATS.items()}
"""The file suffix of each format, empty for a directory."""

_ALIASES = {"tflite": "litert"}
_NOT_WRITTEN = (".h5", ".hdf5", ".pb", ".lite")
"""Endings of models in files, which would be misleading as names of directories."""


class Target:
    """A path to export to, checked: it fits the format, and is free or may be overwritten."""

    def __init__(self, path, format, overwrite, options):
        self.path = pathlib.Path(path)
        self.format = format_of(self.path, format)
        self.module = _FORMATS[self.format]
        self.received = f"path={str(path)!r}, format={self.format!r}"
        _check_options(self.module.write, self.format, options)
        if hasattr(self.module, "check"):
            self.module.check(**options)
        with named_errors([self]):
            self._check_path(overwrite)

    def _check_path(self, overwrite):
        path, suffix = self.path, self.module.SUFFIX
        if ":/" in str(path):
            raise ValueError(
                f"Argument `path` must be on a local file system. Received: {self.received}. "
                "Export to a local directory and copy it."
            )
        if suffix and path.suffix != suffix:
            raise ValueError(f"Argument `path` must end in `{suffix}`. Received: {self.received}.")
        if not suffix and path.suffix in filter(None, SUFFIXES.values()):
            raise ValueError(
                f"Argument `path` must be a directory, not a `{path.suffix}` file. Received: "
                f"{self.received}."
            )
        if not _is_there(path):
            return
        if not overwrite:
            raise ValueError(
                f"Argument `path` must be free. Received: {self.received}. Pass `overwrite=True` "
                "to replace what is there."
            )
        is_empty = path.is_dir() and not any(path.iterdir())
        if not self.module.is_model(path) and not (is_empty and not suffix):
            raise ValueError(
                "Cannot overwrite what is at the path, because it is no model of that format, or "
                f"more than that. Received: {self.received}. Remove it first."
            )


def format_of(path, format=None):
    """The format of a path, by its ending unless a format is given.

    Raises:
        ValueError: If there is none.
    """
    format = _ALIASES.get(format, format)
    if format is None:
        if path.suffix in _NOT_WRITTEN:
            raise ValueError(
                f"Argument `path` must end in `.keras`, `.tflite` or `.onnx`, or be a directory "
                f"for a SavedModel. Received: path={str(path)!r}."
            )
        by_suffix = {suffix: name for name, suffix in SUFFIXES.items() if suffix}
        return by_suffix.get(path.suffix, "saved_model")
    if format not in _FORMATS:
        raise ValueError(
            f"Argument `format` must be one of {sorted(_FORMATS)}. Received: format={format!r}."
        )
    return format


def _is_there(path):
    """Whether there is something at a path, a link to nothing included."""
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


@contextlib.contextmanager
def named_errors(targets):
    """Turns errors of the file system into an `OSError` that names the path and the reason."""
    try:
        yield
    except (OSError, tf.errors.OpError) as error:
        if getattr(error, "is_named", False):
            raise
        kind, why = _reason(error)
        if why is None:
            raise
        paths = ", ".join(f"{str(target.path)!r}" for target in targets)
        named = kind(
            f"Cannot write the model: {why}. Received: path={paths}. Give another path, or make "
            "room and open the directory there."
        )
        named.is_named = True
        raise named from error


def _reason(error):
    """The kind of `OSError` and the reason, if an error is one of the file system."""
    if isinstance(error, OSError):
        where = f" ({error.filename})" if error.filename else ""
        return type(OSError(error.errno or 0, "")), reason(error) + where
    text = " ".join(str(error.message).split())
    for number in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT, errno.EACCES, errno.EROFS, errno.EIO):
        if os.strerror(number) in text:
            return type(OSError(number, "")), os.strerror(number)
    return None, None


def _check_options(write, format, options):
    parameters = inspect.signature(write).parameters.values()
    known = [p.name for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY]
    unknown = [name for name in options if name not in known]
    if unknown:
        takes = f"takes {known} beside `overwrite`" if known else "takes `overwrite` alone"
        raise ValueError(
            f"Arguments of `export` must be those of the format. Received: {unknown} with "
            f"format={format!r}, which {takes}."
        )
