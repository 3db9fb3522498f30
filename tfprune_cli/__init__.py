"""The command `tfprune`: reads its arguments, then hands over to `tfprune.cli.commands`.

It stands beside the package and not in it, since importing any module of `tfprune` imports
TensorFlow, which takes seconds and writes to the terminal. Help, the version and mistakes in
arguments should not wait for that, and what TensorFlow writes can only be held back from outside.
"""

import argparse
import importlib.metadata
import os
import sys
from pathlib import Path

from tfprune_cli import native_log


def main(argv=None):
    """Runs the command.

    Args:
        argv: The arguments, by default those of the process.

    Returns:
        The exit code: 0, 1 if the work failed, 2 for bad input.
    """
    arguments = parse(argv)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with native_log.held_back():
        from tfprune.cli import commands

    return commands.run(arguments)


def parse(argv=None):
    """The arguments as an `argparse.Namespace`; leaves with exit code 2 where they are bad."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    if arguments.command is None:
        parser.print_help(sys.stderr)
        parser.exit(2)
    return arguments


class _Parser(argparse.ArgumentParser):
    """Says in one line what is wrong."""

    def error(self, message):
        """Leaves with exit code 2."""
        self.exit(2, f"{self.prog}: {message}. See `{self.prog} --help`.\n")


def _parser():
    parser = _Parser("tfprune", description="Remove neurons from Keras 3 models.")
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and leave")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    _add_demo(commands)
    _add_explain(commands)
    _add_inspect(commands)
    _add_prune(commands)
    _add_strip(commands)
    return parser


def _add_demo(commands):
    about = "Train a small network on handwritten digits, prune it, strip it and measure it."
    parser = commands.add_parser("demo", help=about, description=about)
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("tfprune-demo"),
        metavar="DIR",
        help="where the models and the plot go (default: %(default)s)",
    )
    parser.add_argument(
        "--target",
        type=_fraction,
        default=0.5,
        metavar="FRACTION",
        help="the fraction of units to remove (default: %(default)s)",
    )
    parser.add_argument(
        "--seed",
        type=_seed,
        default=0,
        help="of the split, the weights and the order of the data (default: %(default)s)",
    )


def _add_explain(commands):
    about = "Print which units of a model are coupled, what each carries, and what cannot go."
    parser = commands.add_parser("explain", help=about, description=about)
    _add_model(parser)
    parser.add_argument(
        "--plot", type=Path, metavar="FILE", help="draw the graph too: .png, .svg or .pdf"
    )


def _add_inspect(commands):
    about = "Print the layers of a model: parameters, multiply-accumulates, sparsity."
    parser = commands.add_parser("inspect", help=about, description=about)
    _add_model(parser)


def _add_prune(commands):
    about = "Prune the units of a compiled model to a budget, train it on, and save what is left."
    parser = commands.add_parser("prune", help=about, description=about)
    _add_model(parser)
    parser.add_argument(
        "--data",
        type=Path,
        required=True,
        metavar="DATA.npz",
        help="arrays x and y; with x_val and y_val, those are evaluated on",
    )
    parser.add_argument(
        "--budget",
        type=_budget,
        required=True,
        metavar="KIND=VALUE",
        help="what may remain: units, parameters, macs or bytes, as a fraction (macs=0.5) or a "
        "number (parameters=120000); or latency in milliseconds (latency=2.5)",
    )
    parser.add_argument(
        "-o",
        "--out",
        type=Path,
        required=True,
        action="append",
        help="where the model goes: a directory (SavedModel) or a file that ends with .keras, "
        ".tflite or .onnx; can be given more than once",
    )
    parser.add_argument(
        "--epochs",
        type=_whole,
        default=0,
        metavar="N",
        help="train the small model for so long (default: %(default)s)",
    )
    parser.add_argument("--criterion", default="magnitude", help="default: %(default)s")
    parser.add_argument(
        "--scope", choices=("uniform", "global", "greedy", "exact"), default="global"
    )
    parser.add_argument(
        "--exclude", action="append", metavar="LAYER", help="keep the units of a layer"
    )
    parser.add_argument("--round-to", type=_count, metavar="N", help="keep multiples of N units")
    parser.add_argument("--batch-size", type=_count, metavar="N", help="of training and measuring")
    parser.add_argument(
        "--no-recovery", action="store_true", help="leave out reconstruction and recalibration"
    )
    parser.add_argument(
        "--distill", action="store_true", help="let the dense model lead the training"
    )
    parser.add_argument("--seed", type=_seed, default=0, help="default: %(default)s")
    parser.add_argument("--overwrite", action="store_true", help="replace OUT if it exists")


def _add_strip(commands):
    about = "Rebuild a model without the units that have no effect, and save it."
    parser = commands.add_parser("strip", help=about, description=about)
    _add_model(parser)
    parser.add_argument("-o", "--out", type=Path, required=True, help="where the new model goes")
    parser.add_argument(
        "--format",
        choices=("saved_model", "keras", "litert", "onnx"),
        help="of the new model (default: by the end of OUT, .keras, .tflite or .onnx, else "
        "saved_model)",
    )
    parser.add_argument(
        "--batch-size",
        type=_count,
        metavar="N",
        help="fix the batch; for litert, where recurrent layers need it",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace OUT if it exists")


def _add_model(parser):
    parser.add_argument("model", type=Path, metavar="MODEL.keras", help="a saved Keras model")
    parser.add_argument(
        "--unsafe",
        action="store_true",
        help="load Python lambdas too: they can run any code, so trust where the file comes from",
    )


class _Version(argparse.Action):
    """Prints the version; only looks it up when asked, as that reads the disk."""

    def __call__(self, parser, *_):
        """Leaves with exit code 0."""
        print(f"tfprune {importlib.metadata.version('tfprune')}")
        parser.exit()


def _fraction(text):
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"must be a number from 0 to below 1, not {text!r}")
    return value


def _count(text):
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be an integer of at least 1, not {text!r}")
    return int(text)


def _budget(text):
    kind, _, value = text.partition("=")
    kinds = ("units", "parameters", "macs", "bytes", "latency")
    if kind not in kinds:
        raise argparse.ArgumentTypeError(
            f"must be KIND=VALUE with a kind among {', '.join(kinds)}, not {text!r}"
        )
    try:
        number = int(value.replace("_", "")) if kind != "latency" else float(value)
    except ValueError:
        try:
            number = float(value)
        except ValueError:
            number = -1.0
    is_fraction = isinstance(number, float) and kind != "latency"
    if not 0 < number < float("inf") or (is_fraction and number > 1):
        expected = "milliseconds" if kind == "latency" else "a fraction up to 1.0 or a whole number"
        raise argparse.ArgumentTypeError(f"{kind} must be {expected}, not {value!r}")
    return kind, number


def _whole(text):
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"must be a whole number from 0, not {text!r}")
    return int(text)


def _seed(text):
    if not text.isdecimal() or int(text) >= 2**32:
        raise argparse.ArgumentTypeError(f"must be an integer from 0 to 2**32 - 1, not {text!r}")
    return int(text)
