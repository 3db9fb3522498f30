"""The command `tfprune latency-table`: a table of latencies that is measured on another device."""

from tfprune._tools import progress
from tfprune._tools.files import reason, written_whole
from tfprune.cli import reading
from tfprune.cli.errors import InputError, reported
from tfprune.measuring import device_protocol, latency_table
from tfprune.measuring.runtimes import check_installed
from tfprune.stripping.prunable import prunable
from tfprune.units.prunable import PrunableUnits
from tfprune.units.selection.paying_widths import pieces_to_measure


def write(arguments):
    """Writes the small models of a model, and the commands that time them."""
    if arguments.out.exists():
        raise InputError(f"{arguments.out} exists. Give another folder with -o.")
    with reported(ImportError):
        check_installed(arguments.runtime)
    model = reading.model(arguments.model, arguments.unsafe)
    with reported(ValueError):
        units = PrunableUnits(prunable(model))
        models = pieces_to_measure(units, arguments.batch_size or 1)
    how = {
        "runtime": arguments.runtime,
        "threads": arguments.threads,
        "quantize": arguments.quantize,
    }
    try:
        with (
            progress.shown(verbose=1),
            reported(ValueError),
            written_whole(arguments.out.resolve()) as place,
        ):
            written, failed = device_protocol.write(models, place, name=model.name, **how)
    except OSError as error:
        raise InputError(
            f"cannot write {arguments.out}: {reason(error)}. Give another folder with -o."
        ) from error
    if failed:
        print(f"{failed} pieces cannot be converted; their share is taken from their MACs")
    print(f"wrote {written} pieces to {arguments.out}: {device_protocol.PROTOCOL} has the commands")
    return 0


def read(arguments):
    """Writes the table of what a benchmark tool has printed on the device."""
    try:
        with reported(ValueError):
            table = device_protocol.read(arguments.folder, arguments.outputs, arguments.device)
    except OSError as error:
        raise InputError(f"cannot read {error.filename}: {reason(error)}.") from error
    try:
        if arguments.out.exists():
            with reported(ValueError):
                latency_table.read(arguments.out, table.environment)
        table.write(arguments.out.resolve())
    except OSError as error:
        raise InputError(
            f"cannot write {arguments.out}: {reason(error)}. Give another file with -o."
        ) from error
    print(f"wrote {arguments.out} with {len(table.seconds)} pieces")
    return 0
