"""The commands that write a model as it is or without its dead units: `export`, `strip`."""

from tfprune.cli import outputs, reading
from tfprune.cli.errors import InputError, reported
from tfprune.cli.printing import show
from tfprune.stripping.strip import strip


def run_export(arguments):
    """Writes a model in other formats."""
    paths = arguments.out
    formats = outputs.formats(paths, arguments.overwrite)
    options = {}
    if arguments.quantize is not None:
        outputs.check_only("--quantize", paths, formats, "litert")
        options["quantize"] = arguments.quantize
    if arguments.batch_size is not None:
        outputs.check_only("--batch-size", paths, formats, "litert")
        options["batch_size"] = arguments.batch_size
    if arguments.data is not None:
        outputs.check_only("--data", paths, formats, "litert", "onnx")
        options["representative_data"] = reading.arrays(arguments.data, ("x",))["x"]
    elif arguments.quantize == "int8":
        raise InputError(
            "--quantize int8 needs --data, an .npz file with a hundred or more typical inputs x."
        )
    with outputs.models(paths, arguments.overwrite, **options) as write:
        write(reading.model(arguments.model, arguments.unsafe))
    show(arguments, written=paths)
    return 0


def run_strip(arguments):
    """Writes a model without the units that have no effect."""
    paths = [arguments.out]
    formats = outputs.formats(paths, arguments.overwrite, arguments.format)
    options = {"format": formats[0]}
    if arguments.batch_size is not None:
        outputs.check_only("--batch-size", paths, formats, "litert")
        options["batch_size"] = arguments.batch_size
    with outputs.models(paths, arguments.overwrite, **options) as write:
        model = reading.model(arguments.model, arguments.unsafe)
        with reported(ValueError, failures=RuntimeError):
            small, removed = strip(model, return_report=True)
        write(small)
    show(arguments, removed, paths)
    return 0
