"""The command line: parse, call, print. The arguments are read in `tfprune_cli`."""

import re
import sys
import zipfile
import zlib

import keras
from rich.console import Console

from tfprune import demo, report
from tfprune.explain import explain
from tfprune.export import SUFFIXES, export
from tfprune.strip import strip
from tfprune_cli import native_log_held_back, parse

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
"""What Keras raises for files that are damaged or no models: it does not wrap them."""


class InputError(Exception):
    """Something the user gave that cannot be used: says what, and what to do."""


def main(argv=None):
    """Runs the command with arguments; returns the exit code.

    Example:

    >>> main(["inspect", "missing.keras"])
    2
    """
    return run(parse(argv))


def run(arguments):
    """Runs the command that the parsed arguments name.

    Args:
        arguments: What `tfprune_cli.parse` returns.

    Returns:
        The exit code: 0, 1 if the work failed, 2 for bad input, of which one line on stderr tells.
    """
    commands = {"demo": _demo, "explain": _explain, "inspect": _inspect, "strip": _strip}
    try:
        return commands[arguments.command](arguments)
    except InputError as error:
        print(f"tfprune {arguments.command}: {error}", file=sys.stderr)
        return 2


def _demo(arguments):
    try:
        demo.require_extras()
    except ImportError as error:
        raise InputError(_one_line(error)) from error
    try:
        result = demo.run(arguments.out, target=arguments.target, seed=arguments.seed)
    except OSError as error:
        raise InputError(
            f"cannot write to {arguments.out}: {_one_line(error)}. Give another with --out."
        ) from error
    return 0 if result.holds else 1


def _inspect(arguments):
    model = _load(arguments)
    try:
        found = report.inspect(model)
    except ValueError as error:
        raise InputError(_one_line(error)) from error
    Console().print(found)
    return 0


def _explain(arguments):
    model = _load(arguments)
    try:
        found = explain(model)
    except ValueError as error:
        raise InputError(_one_line(error)) from error
    Console().print(found)
    if arguments.plot is not None:
        try:
            found.plot(arguments.plot)
        except ImportError as error:
            raise InputError(_one_line(error)) from error
        except (OSError, ValueError) as error:
            raise InputError(
                f"cannot draw {arguments.plot}: {_one_line(error)}. Give another file, .png, .svg "
                "or .pdf, with --plot."
            ) from error
        print(f"wrote {arguments.plot}")
    return 0


def _strip(arguments):
    file_format = _output_format(arguments)
    model = _load(arguments)
    try:
        small, removed = strip(model, return_report=True)
        options = {} if arguments.batch_size is None else {"batch_size": arguments.batch_size}
        with native_log_held_back(shown_on_failure=False):
            export(
                small, arguments.out, format=file_format, overwrite=arguments.overwrite, **options
            )
    except (ImportError, ValueError) as error:
        raise InputError(_one_line(error)) from error
    except OSError as error:
        raise InputError(
            f"cannot write {arguments.out}: {_one_line(error)}. Give another path with -o."
        ) from error
    except RuntimeError as error:  # the result was checked, and is not what it should be
        print(f"tfprune strip: {_one_line(error)}", file=sys.stderr)
        return 1
    print(removed)
    print(f"wrote {arguments.out}")
    return 0


def _output_format(arguments):
    """The format of the output, after what can be told before the model is loaded."""
    out = arguments.out
    if out.exists() and not arguments.overwrite:
        raise InputError(f"{out} exists. Give --overwrite to replace it, or another path with -o.")
    by_suffix = {suffix: name for name, suffix in SUFFIXES.items() if suffix}
    file_format = arguments.format or by_suffix.get(out.suffix, "saved_model")
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


def _load(arguments):
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
        return keras.models.load_model(path, compile=False, safe_mode=not arguments.unsafe)
    except _LOADING_ERRORS as error:
        raise InputError(_why_not_loaded(path, _one_line(error))) from error


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
