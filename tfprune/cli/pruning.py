"""The commands that prune a compiled model: `prune`, `pareto`."""

import keras
import tensorflow as tf

from tfprune._tools import progress
from tfprune._tools.files import reason
from tfprune.cli import outputs, reading
from tfprune.cli.errors import InputError, reported
from tfprune.cli.printing import show
from tfprune.shrinking.pareto import pareto
from tfprune.shrinking.prune import prune
from tfprune.units import budgets
from tfprune.units.selection.selection import Selection

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


def run_prune(arguments):
    """Prunes to a budget, and writes the small model."""
    formats = outputs.formats(arguments.out, arguments.overwrite)
    exporting, arrays, more = {}, None, {}
    if arguments.quantize and _is_by_export(arguments, formats):
        arrays = reading.arrays(arguments.data)
        exporting = {"quantize": arguments.quantize, "representative_data": arrays["x"]}
    elif arguments.quantize:
        more = {"quantize": arguments.quantize}
    with outputs.models(arguments.out, arguments.overwrite, **exporting) as write:
        model, data, options = _to_prune(arguments, arrays)
        keras.utils.set_random_seed(arguments.seed)
        with reported(*_ERRORS, failures=RuntimeError):
            target = _budget(arguments)
            small, done = prune(model, target, data, return_report=True, **options, **more)
        write(small)
    show(arguments, done, arguments.out)
    return 0


def _budget(arguments):
    kind, remaining = arguments.budget
    if kind != "latency":
        if arguments.runtime != "keras" or arguments.table:
            raise InputError("--runtime and --table are for --budget latency=MILLISECONDS alone.")
        return _BUDGETS[kind](remaining)
    quantize = arguments.quantize if arguments.runtime == "litert" else None
    return budgets.Latency(
        remaining, runtime=arguments.runtime, table=arguments.table, quantize=quantize
    )


def _is_by_export(arguments, formats):
    """Whether models are quantized as they are exported to LiteRT, not by Keras before.

    Raises:
        InputError: If there is an output that cannot be quantized, or both ways are wanted.
    """
    for path, each in zip(arguments.out, formats, strict=True):
        if each == "onnx":
            raise InputError(
                f"--quantize is not for .onnx files, as {path}. Give another with -o, or leave it "
                "out."
            )
    if len({each == "litert" for each in formats}) > 1:
        raise InputError(
            "--quantize makes int8 weights for .keras files and SavedModels, and int8 activations "
            "as well for .tflite files, of another model. Give one of these kinds with -o, and "
            "write the others with `tfprune export`."
        )
    return formats[0] == "litert"


def run_pareto(arguments):
    """Prunes to several budgets, and draws the curve."""
    with outputs.picture(arguments.plot, arguments.overwrite) as draw:
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
    if not arguments.json:
        show(arguments, found)
        print(f"wrote {len(found.points)} models to {arguments.out}")
        found = None
    written = [arguments.out] if arguments.json else []
    show(arguments, found, written + [arguments.plot] * (arguments.plot is not None))
    return 0


def _to_prune(arguments, arrays=None):
    """The model, the data, and the arguments of `prune` and `pareto` that the command line has."""
    arrays = arrays or reading.arrays(arguments.data)
    validation = _validation(arguments, arrays)
    model = reading.model(arguments.model, arguments.unsafe, compiled=True)
    if arguments.learning_rate is not None:
        _set_learning_rate(model, arguments)
    recover = [] if arguments.no_recovery else ["reconstruct", "recalibrate"]
    recover += ["distill"] if arguments.distill else []
    options = {
        "criterion": arguments.criterion,
        "recover": recover,
        "effort": arguments.effort,
        "epochs": arguments.epochs,
        "exclude": arguments.exclude,
        "verbose": int(progress.on_terminal()),
        "batch_size": arguments.batch_size,
        **validation,
    }
    with reported(ValueError):
        options["selection"] = _selection(arguments.selection, arguments.round_to)
    return model, (arrays["x"], arrays["y"]), options


def _validation(arguments, arrays):
    """The argument of `prune` that says what is evaluated on."""
    given = arguments.validation
    if given is None:
        has_own = "x_val" in arrays
        return {"validation_data": (arrays["x_val"], arrays["y_val"]) if has_own else None}
    if "x_val" in arrays:
        raise InputError(
            f"{arguments.data} holds x_val and y_val already. Leave out --validation, or give data "
            "without them."
        )
    if isinstance(given, float):
        return {"validation_split": given}
    found = reading.arrays(given)
    return {"validation_data": (found["x"], found["y"])}


def _set_learning_rate(model, arguments):
    try:
        model.optimizer.learning_rate = arguments.learning_rate
    except (AttributeError, TypeError) as error:
        why = "has a schedule" if model.optimizer is not None else "is missing"
        raise InputError(
            f"--learning-rate cannot be set, since the optimizer of {arguments.model} {why}. Leave "
            "it out, or compile the model with a rate and save it again."
        ) from error


def _selection(scope, round_to):
    if round_to is None:
        return scope
    return Selection("global" if scope == "auto" else scope, round_to=round_to)
