"""The commands of `tfprune`: each calls the package, prints and writes files.

Their arguments are parsed in `tfprune_cli`.
"""

import sys

import tensorflow as tf

from tfprune.cli import demo, latency_table, looking, pruning, reading, writing
from tfprune.cli.errors import FailedError, InputError, one_line, reported


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
        "compare": looking.run_compare,
        "demo": _demo,
        "explain": looking.run_explain,
        "export": writing.run_export,
        "inspect": looking.run_inspect,
        "latency-table": _latency_table,
        "pareto": pruning.run_pareto,
        "prune": pruning.run_prune,
        "strip": writing.run_strip,
        "summary": looking.run_summary,
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


def _latency_table(arguments):
    return {"write": latency_table.write, "read": latency_table.read}[arguments.action](arguments)


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
