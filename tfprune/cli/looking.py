"""The commands that look at models: `explain`, `inspect`, `summary`, `compare`."""

from tfprune.cli import outputs, reading
from tfprune.cli.errors import InputError, reported
from tfprune.cli.printing import show
from tfprune.masks.summary import summary
from tfprune.reports.compare import compare
from tfprune.reports.compare_exports import compare_exports
from tfprune.reports.explain import explain
from tfprune.reports.inspect import inspect


def run_explain(arguments):
    """Prints the coupled units, and draws them."""
    with outputs.picture(arguments.plot, arguments.overwrite) as draw:
        model = reading.model(arguments.model, arguments.unsafe)
        with reported(ValueError):
            found = explain(model)
        draw(found)
    show(arguments, found, [] if arguments.plot is None else [arguments.plot])
    return 0


def run_inspect(arguments):
    """Prints the layers."""
    return _print(inspect, arguments)


def run_summary(arguments):
    """Prints the masks."""
    return _print(summary, arguments)


def _print(look, arguments):
    model = reading.model(arguments.model, arguments.unsafe)
    with reported(ValueError):
        found = look(model)
    show(arguments, found)
    return 0


def run_compare(arguments):
    """Prints the comparison of two Keras models, or of one with files that were exported of it."""
    others = arguments.others
    for path in others:
        reading.check_there(path)
    exported = [path for path in others if path.suffix != ".keras"]
    if not exported and len(others) > 1:
        raise InputError(
            f"two Keras models are compared, or one with exported files, not {len(others) + 1} "
            f"Keras models. Leave out {others[1]}."
        )
    data = None
    if arguments.data is not None:
        needed = ("x",) if exported else ("x", "y")
        arrays = reading.arrays(arguments.data, needed)
        data = (arrays["x"], arrays.get("y"))
    options = {"batch_sizes": ()} if arguments.no_latency else {}
    compiled = data is not None and (not exported or "if it was")
    model = reading.model(arguments.model, arguments.unsafe, compiled)
    with reported(ImportError, ValueError):
        if exported:
            found = compare_exports(model, others, data, **options)
        else:
            other = reading.model(others[0], arguments.unsafe, compiled)
            found = compare(model, other, data, **options)
    show(arguments, found)
    return 0
