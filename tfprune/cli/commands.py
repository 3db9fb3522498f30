"""The commands of `tfprune`: each calls the package, prints and writes files.

Their arguments are parsed in `tfprune_cli`.
"""

import contextlib
import os
import sys

import keras
import tensorflow as tf
from rich.console import Console

from tfprune._tools import plots
from tfprune._tools.files import reason, written_whole
from tfprune.cli import demo, latency_table, reading
from tfprune.cli.errors import FailedError, InputError, one_line, reported
from tfprune.exporting.export import exporting
from tfprune.exporting.targets import SUFFIXES, format_of
from tfprune.reports.explain import explain
from tfprune.reports.inspect import inspect
from tfprune.shrinking.pareto import pareto
from tfprune.shrinking.prune import prune
from tfprune.stripping.strip import strip
from tfprune.units import budgets
from tfprune.units.selection.selection import Selection
from tfprune_cli import native_log

_BUDGETS = {
    "units": budgets.Units,
    "parameters": budgets.Parameters,
    "macs": budgets.MACs,
    "bytes": budgets.Bytes,
    "latency": budgets.Latency,
    "drop": budgets.Accuracy,
}
_ERRORS = (ImportError, TypeError, ValueError, tf.errors.InvalidArgumentError)
"""What pruning raises where the input is bad."""


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
        "latency-table": _latency_table,
        "pareto": _pareto,
        "prune": _prune,
        "strip": _strip,
    }
    tf.get_logger().setLevel("ERROR")  # its advice on tracing is not for who runs a command
    try:
        return commands[arguments.command](arguments)
    except (InputError, FailedError) as error:
        message, code = str(error), 1 if isinstance(error, FailedError) else 2
    except (MemoryError, tf.errors.ResourceExhaustedError) as error:
        message, code = f"there is not enough memory ({reading.first_sentence(error)}).", 2
    print(f"tfprune {arguments.command}: {message}", file=sys.stderr)
    return code


def _demo(arguments):
    with reported(ImportError):
        demo.require_extras()
    try:
        result = demo.run(arguments.out, target=arguments.target, seed=arguments.seed)
    except (OSError, ValueError) as error:
        raise InputError(
            f"cannot write to {arguments.out}: {one_line(error)} Give another with --out."
        ) from error
    return 0 if result.holds else 1


def _inspect(arguments):
    model = reading.model(arguments.model, arguments.unsafe)
    with reported(ValueError):
        Console().print(inspect(model))
    return 0


def _latency_table(arguments):
    return {"write": latency_table.write, "read": latency_table.read}[arguments.action](arguments)


def _explain(arguments):
    with _picture(arguments.plot, arguments.overwrite) as draw:
        model = reading.model(arguments.model, arguments.unsafe)
        with reported(ValueError):
            found = explain(model)
        draw(found)
        Console().print(found)
    if arguments.plot is not None:
        print(f"wrote {arguments.plot}")
    return 0


@contextlib.contextmanager
def _picture(path, overwrite):
    """Opens the file of a picture before any work; yields what draws it."""
    if path is None:
        yield lambda found: None
        return
    if path.suffix not in (".png", ".svg", ".pdf"):
        raise InputError(f"{path} must end with .png, .svg or .pdf. Give another file with --plot.")
    try:
        if os.path.lexists(path) and not overwrite:
            raise InputError(f"{path} exists. Give --overwrite to replace it, or another --plot.")
        with written_whole(path.resolve()) as place:
            with reported(ImportError):
                plots.require("explain --plot")
            yield lambda found: found.plot(place)
    except OSError as error:
        raise InputError(
            f"cannot draw {path}: {reason(error)}. Give another file with --plot."
        ) from error


def _prune(arguments):
    with _outputs(arguments.out, None, arguments.overwrite) as write:
        small, done = _pruned(arguments)
        write(small)
        Console().print(done)
    for out in arguments.out:
        print(f"wrote {out}")
    return 0


def _pruned(arguments):
    """The smaller model, and the report."""
    model, data, options = _to_prune(arguments)
    kind, remaining = arguments.budget
    keras.utils.set_random_seed(arguments.seed)
    where = {"runtime": arguments.runtime, "table": arguments.table} if kind == "latency" else {}
    if not where and (arguments.runtime != "keras" or arguments.table):
        raise InputError("--runtime and --table are for --budget latency=MILLISECONDS alone.")
    with reported(*_ERRORS, failures=RuntimeError):
        return prune(model, _BUDGETS[kind](remaining, **where), data, return_report=True, **options)


def _pareto(arguments):
    with _picture(arguments.plot, arguments.overwrite) as draw:
        model, data, options = _to_prune(arguments)
        try:
            with reported(*_ERRORS, failures=RuntimeError):
                found = pareto(
                    model,
                    data,
                    remaining=arguments.remaining,
                    cost=arguments.cost,
                    metric=arguments.metric,
                    folder=arguments.out,
                    seed=arguments.seed,
                    **options,
                )
        except OSError as error:
            why = reason(error)
            raise InputError(
                f"cannot write to {arguments.out}: {why}. Give another with -o."
            ) from error
        draw(found)
        Console().print(found)
    print(f"wrote {len(found.points)} models to {arguments.out}")
    if arguments.plot is not None:
        print(f"wrote {arguments.plot}")
    return 0


def _to_prune(arguments):
    """The model, the data, and the arguments of `prune` and `pareto` that the command line has."""
    arrays = reading.arrays(arguments.data)
    model = reading.model(arguments.model, arguments.unsafe, compiled=True)
    recover = [] if arguments.no_recovery else ["reconstruct", "recalibrate"]
    recover += ["distill"] if arguments.distill else []
    options = {
        "criterion": arguments.criterion,
        "recover": recover,
        "effort": arguments.effort,
        "epochs": arguments.epochs,
        "validation_data": (arrays["x_val"], arrays["y_val"]) if "x_val" in arrays else None,
        "exclude": arguments.exclude,
        "verbose": 1,
        "batch_size": arguments.batch_size,
    }
    with reported(ValueError):
        options["selection"] = _selection(arguments.selection, arguments.round_to)
    return model, (arrays["x"], arrays["y"]), options


def _selection(scope, round_to):
    if round_to is None:
        return scope
    return Selection("global" if scope == "auto" else scope, round_to=round_to)


def _strip(arguments):
    options = {} if arguments.batch_size is None else {"batch_size": arguments.batch_size}
    with _outputs([arguments.out], arguments.format, arguments.overwrite, **options) as write:
        model = reading.model(arguments.model, arguments.unsafe)
        with reported(ValueError, failures=RuntimeError):
            small, removed = strip(model, return_report=True)
        write(small)
        print(removed)
    print(f"wrote {arguments.out}")
    return 0


@contextlib.contextmanager
def _outputs(paths, file_format, overwrite, **options):
    """Checks all outputs; yields what writes a model to all of them, or to none."""
    for path in paths:
        _check_output(path, file_format, overwrite)
    errors = (ImportError, OSError, ValueError)
    with (
        reported(*errors, failures=RuntimeError),
        exporting(paths, file_format, overwrite, **options) as write,
    ):

        def quietly(model):
            with native_log.held_back(shown_on_failure=False):
                write(model)

        yield quietly


def _check_output(out, file_format, overwrite):
    """Refuses a path, in the words of the command line."""
    if not overwrite and os.path.lexists(out):
        raise InputError(f"{out} exists. Give --overwrite to replace it, or another path with -o.")
    with reported(ValueError):
        file_format = format_of(out, file_format)
    suffix = SUFFIXES[file_format]
    if suffix and out.suffix != suffix:
        raise InputError(
            f"{out} must end with {suffix} for --format {file_format}. Give another with -o."
        )
    if not suffix and out.suffix in filter(None, SUFFIXES.values()):
        raise InputError(
            f"{out} must not end with {out.suffix} for --format {file_format}. Give another "
            "with -o."
        )
