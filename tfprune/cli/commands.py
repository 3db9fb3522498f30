"""The commands of `tfprune`: each calls the package, prints and writes files.

Their arguments are parsed in `tfprune_cli`.
"""

import contextlib
import re
import sys
import zipfile
import zlib

import keras
import numpy as np
import tensorflow as tf
from rich.console import Console

from tfprune.cli import demo
from tfprune.exporting.export import SUFFIXES, export
from tfprune.reports.explain import explain
from tfprune.reports.inspect import inspect
from tfprune.shrinking.prune import prune
from tfprune.stripping.strip import strip
from tfprune.units import budgets
from tfprune.units.selection.selection import Selection
from tfprune_cli import native_log

_LOADING_ERRORS = (
    AttributeError,
    EOFError,
    ImportError,
    LookupError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    zipfile.BadZipFile,
    zlib.error,
)
"""The exceptions that Keras raises for damaged files and files that are not models."""


_BUDGETS = {
    "units": budgets.Units,
    "parameters": budgets.Parameters,
    "macs": budgets.MACs,
    "bytes": budgets.Bytes,
    "latency": budgets.Latency,
}


class InputError(Exception):
    """Input that cannot be used: says what is wrong, and what to do. Exit code 2."""


class FailedError(Exception):
    """The result was checked and is not what it should be. Exit code 1."""


@contextlib.contextmanager
def _reported(*errors, failures=()):
    """Turns `errors` into `InputError` and `failures` into `FailedError`, in one line."""
    try:
        yield
    except errors as error:
        raise InputError(_one_line(error)) from error
    except failures as error:
        raise FailedError(_one_line(error)) from error


def run(arguments):
    """Runs the command that the parsed arguments name.

    Args:
        arguments: What `tfprune_cli.parse` returns.

    Returns:
        The exit code: 0, 1 if the work failed, 2 for bad input, of which one line on stderr tells.

    Example:

    >>> import tfprune_cli
    >>> run(tfprune_cli.parse(["inspect", "missing.keras"]))
    2
    """
    commands = {
        "demo": _demo,
        "explain": _explain,
        "inspect": _inspect,
        "prune": _prune,
        "strip": _strip,
    }
    try:
        return commands[arguments.command](arguments)
    except (InputError, FailedError) as error:
        print(f"tfprune {arguments.command}: {error}", file=sys.stderr)
        return 1 if isinstance(error, FailedError) else 2


def _demo(arguments):
    with _reported(ImportError):
        demo.require_extras()
    try:
        result = demo.run(arguments.out, target=arguments.target, seed=arguments.seed)
    except OSError as error:
        raise InputError(
            f"cannot write to {arguments.out}: {_one_line(error)}. Give another with --out."
        ) from error
    return 0 if result.holds else 1


def _inspect(arguments):
    model = _load(arguments)
    with _reported(ValueError):
        Console().print(inspect(model))
    return 0


def _explain(arguments):
    model = _load(arguments)
    with _reported(ValueError):
        found = explain(model)
    Console().print(found)
    if arguments.plot is not None:
        try:
            with _reported(ImportError):
                found.plot(arguments.plot)
        except (OSError, ValueError) as error:
            raise InputError(
                f"cannot draw {arguments.plot}: {_one_line(error)}. Give another file, .png, .svg "
                "or .pdf, with --plot."
            ) from error
        print(f"wrote {arguments.plot}")
    return 0


def _prune(arguments):
    formats = [_output_format(out, None, arguments.overwrite) for out in arguments.out]
    arrays = _arrays(arguments.data)
    model = _load(arguments, compiled=True)
    kind, remaining = arguments.budget
    validation = (arrays["x_val"], arrays["y_val"]) if "x_val" in arrays else None
    keras.utils.set_random_seed(arguments.seed)
    recover = [] if arguments.no_recovery else ["reconstruct", "recalibrate"]
    recover += ["distill"] if arguments.distill else []
    try:
        small, done = prune(
            model,
            _BUDGETS[kind](remaining),
            (arrays["x"], arrays["y"]),
            criterion=arguments.criterion,
            selection=Selection(arguments.selection, round_to=arguments.round_to),
            recover=recover,
            epochs=arguments.epochs,
            validation_data=validation,
            exclude=arguments.exclude,
            return_report=True,
            verbose=1,
            batch_size=arguments.batch_size,
        )
    except (ImportError, TypeError, ValueError, tf.errors.OpError) as error:
        raise InputError(_one_line(error)) from error
    except RuntimeError as error:  # the result was checked, and is not what it should be
        raise FailedError(_one_line(error)) from error
    Console().print(done)
    for out, file_format in zip(arguments.out, formats, strict=True):
        _write(small, out, file_format, arguments.overwrite)
        print(f"wrote {out}")
    return 0


def _arrays(path):
    """The arrays of a `.npz` file: `x` and `y`, and `x_val` and `y_val` if it has them."""
    if not path.exists() or not zipfile.is_zipfile(path):
        reason = f"{path} is no .npz file" if path.exists() else f"there is no file {path}"
        raise InputError(f"{reason}. Give one that `numpy.savez` wrote, with x and y.")
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in ("x", "y", "x_val", "y_val") if name in file}
            names = sorted(file)
    except (EOFError, OSError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        if "allow_pickle" in str(error):
            raise InputError(
                f"{path} holds Python objects, which can run any code when they are loaded. Give "
                "plain arrays of numbers."
            ) from error
        raise InputError(f"{path} cannot be read: {_one_line(error)}") from error
    missing = [name for name in ("x", "y") if name not in arrays]
    if missing or ("x_val" in arrays) != ("y_val" in arrays):
        raise InputError(
            f"{path} must hold x and y, and x_val with y_val or neither. It has: {names}."
        )
    for x, y in (("x", "y"), ("x_val", "y_val")):
        if x in arrays and (not arrays[x].shape or len(arrays[x]) != len(arrays[y])):
            shapes = f"{arrays[x].shape} and {arrays[y].shape}"
            raise InputError(f"{x} and {y} in {path} must have one row a sample, not {shapes}.")
    return arrays


def _strip(arguments):
    file_format = _output_format(arguments.out, arguments.format, arguments.overwrite)
    model = _load(arguments)
    with _reported(ValueError, failures=RuntimeError):
        small, removed = strip(model, return_report=True)
    options = {} if arguments.batch_size is None else {"batch_size": arguments.batch_size}
    _write(small, arguments.out, file_format, arguments.overwrite, **options)
    print(removed)
    print(f"wrote {arguments.out}")
    return 0


def _write(model, out, file_format, overwrite, **options):
    """Exports a model."""
    hidden_log = native_log.held_back(shown_on_failure=False)
    try:
        with _reported(ImportError, ValueError, failures=RuntimeError), hidden_log:
            export(model, out, format=file_format, overwrite=overwrite, **options)
    except OSError as error:
        raise InputError(
            f"cannot write {out}: {_one_line(error)}. Give another path with -o."
        ) from error


def _output_format(out, file_format, overwrite):
    """The format of the output; checks the path before the model is loaded."""
    if out.exists() and not overwrite:
        raise InputError(f"{out} exists. Give --overwrite to replace it, or another path with -o.")
    by_suffix = {suffix: name for name, suffix in SUFFIXES.items() if suffix}
    file_format = file_format or by_suffix.get(out.suffix, "saved_model")
    suffix = SUFFIXES[file_format]
    if suffix and out.suffix != suffix:
        raise InputError(
            f"{out} must end with {suffix} for --format {file_format}. Give another with -o."
        )
    if not suffix and out.suffix in by_suffix:
        raise InputError(
            f"{out} must not end with {out.suffix} for --format {file_format}. Give another "
            "with -o."
        )
    return file_format


def _load(arguments, compiled=False):
    path = arguments.model
    if not path.exists():
        raise InputError(f"there is no file {path}. Give one that `model.save` wrote.")
    if path.is_dir():
        raise InputError(
            f"{path} is a directory, and an exported model has no layers to work on. "
            "Give the .keras file that `model.save` wrote."
        )
    if path.suffix == ".keras" and not zipfile.is_zipfile(path):
        raise InputError(
            f"{path} is not a model: it is no .keras archive, or not a whole one. "
            "Give a file that `model.save` wrote."
        )
    try:
        model = keras.models.load_model(path, compile=compiled, safe_mode=not arguments.unsafe)
    except _LOADING_ERRORS as error:
        raise InputError(_why_not_loaded(path, _one_line(error))) from error
    if compiled and not model.compiled:
        raise InputError(
            f"{path} was saved without its loss and optimizer. Compile the model and save it again."
        )
    return model


def _why_not_loaded(path, message):
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
    reason = re.split(r"(?<=[.:]) ", message)[0].rstrip(".:")
    return (
        f"{path} is not a model that Keras can load ({reason}). Give one that `model.save` wrote."
    )


def _one_line(error):
    return " ".join(str(error).split()) or type(error).__name__
