"""The command `tfprune`: parses its arguments, then calls `tfprune.cli.commands`.

It is beside the package and not in it, because importing any module of `tfprune` imports
TensorFlow, which takes seconds and writes to the terminal. Help, the version and mistakes in
arguments should not wait for that, and what TensorFlow writes can only be held back from outside.
"""

import argparse
import importlib.metadata
import os
import sys
from pathlib import Path

from tfprune_cli import interrupts, native_log


def main(argv=None):
    """Runs the command.

    Args:
        argv: The arguments, by default those of the process.

    Returns:
        The exit code: 0, 1 if the work failed, 2 for bad input, 130 after Ctrl-C.
    """
    arguments = parse(argv)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with interrupts.raised_once(last=argv is None) as came:
        try:
            with native_log.held_back():
                from tfprune.cli import commands

            code = commands.run(arguments)
            sys.stdout.flush()
        except BaseException as error:
            if not came and not isinstance(error, OSError):
                raise
            code = _stopped(arguments, came, error)
    return 130 if came and code else code


def _stopped(arguments, came, error):
    """What is said, and the exit code, after Ctrl-C or where nobody takes what is printed."""
    if came:
        print(f"tfprune {arguments.command}: interrupted.", file=sys.stderr)
        return 130
    if sys.stdout is sys.__stdout__:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # or the interpreter fails at its end
    if isinstance(error, BrokenPipeError):
        return 128 + 13  # as if the signal had ended it
    print(f"tfprune {arguments.command}: {error}", file=sys.stderr)
    return 2


def parse(argv=None):
    """Parses the arguments into an `argparse.Namespace`; exits with code 2 if they are invalid."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    if arguments.command is None:
        parser.print_help(sys.stderr)
        parser.exit(2)
    return arguments


class _Parser(argparse.ArgumentParser):
    """A parser that reports errors in one line."""

    def error(self, message):
        """Exits with code 2."""
        self.exit(2, f"{self.prog}: {message}. See `{self.prog} --help`.\n")


def _parser():
    parser = _Parser("tfprune", description="Remove neurons from Keras 3 models.")
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and exit")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    _add_demo(commands)
    _add_explain(commands)
    _add_inspect(commands)
    _add_latency_table(commands)
    _add_pareto(commands)
    _add_prune(commands)
    _add_strip(commands)
    return parser


def _add_demo(commands):
    about = "Train, prune, strip and measure a small network on handwritten digits."
    parser = commands.add_parser("demo", help=about, description=about)
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("tfprune-demo"),
        metavar="DIR",
        help="the directory for the models and the plot (default: %(default)s)",
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
        help="seed of the data split, the weights and the shuffling (default: %(default)s)",
    )


def _add_explain(commands):
    about = "Print the coupled units of a model, what each saves, and which cannot be removed."
    parser = commands.add_parser("explain", help=about, description=about)
    _add_model(parser)
    parser.add_argument(
        "--plot", type=Path, metavar="FILE", help="also draw the graph, as .png, .svg or .pdf"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace FILE if it exists")


def _add_inspect(commands):
    about = "Print the layers of a model with parameters, multiply-accumulates and sparsity."
    parser = commands.add_parser("inspect", help=about, description=about)
    _add_model(parser)


def _add_latency_table(commands):
    about = "Measure the latency of the pieces of a model on another device."
    parser = commands.add_parser("latency-table", help=about, description=about)
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    about = "Write small models, and the commands of the runtime's benchmark tool that time them."
    write = actions.add_parser("write", help=about, description=about)
    _add_model(write)
    write.add_argument(
        "--runtime", choices=("litert", "onnx"), default="litert", help="default: %(default)s"
    )
    write.add_argument(
        "--threads", type=_count, default=1, metavar="N", help="default: %(default)s"
    )
    write.add_argument(
        "--quantize", choices=("float16", "dynamic", "int8"), help="of LiteRT; default: none"
    )
    write.add_argument("--batch-size", type=_count, metavar="N", help="default: 1")
    write.add_argument(
        "-o", "--out", type=Path, required=True, metavar="DIR", help="the folder, which is new"
    )
    about = "Read what the benchmark tool printed into a table, for `tfprune.budgets.Latency`."
    read = actions.add_parser("read", help=about, description=about)
    read.add_argument("folder", type=Path, metavar="DIR", help="the folder that was written")
    read.add_argument(
        "outputs",
        type=Path,
        nargs="+",
        metavar="OUTPUT",
        help="what benchmark_model printed, or the profiles of onnxruntime_perf_test",
    )
    read.add_argument("--device", required=True, metavar="NAME", help="what the device is called")
    read.add_argument(
        "-o", "--out", type=Path, required=True, metavar="TABLE.json", help="the table"
    )


def _add_pareto(commands):
    about = (
        "Prune a compiled model to several budgets, and print accuracy over cost. The same command "
        "goes on after an interruption."
    )
    parser = commands.add_parser("pareto", help=about, description=about)
    _add_model(parser)
    _add_data(parser)
    parser.add_argument(
        "-o",
        "--out",
        type=Path,
        required=True,
        metavar="DIR",
        help="the directory for the models, new or empty, or that of a run which goes on",
    )
    parser.add_argument(
        "--remaining",
        type=_shares,
        default=(0.8, 0.6, 0.4, 0.3, 0.2, 0.1),
        metavar="SHARES",
        help="which shares of the cost may remain (default: 0.8,0.6,0.4,0.3,0.2,0.1)",
    )
    parser.add_argument(
        "--cost",
        choices=("macs", "parameters", "bytes", "latency"),
        default="macs",
        help="what is to be small (default: %(default)s)",
    )
    parser.add_argument(
        "--metric",
        default="accuracy",
        help="what is to be good, a metric that the model is compiled with, or loss (default: "
        "%(default)s)",
    )
    parser.add_argument(
        "--plot", type=Path, metavar="FILE", help="also draw the curve, as .png, .svg or .pdf"
    )
    _add_pruning(parser)
    parser.add_argument("--overwrite", action="store_true", help="replace FILE if it exists")


def _add_prune(commands):
    about = "Prune the units of a compiled model to a budget, train it on, and save what is left."
    parser = commands.add_parser("prune", help=about, description=about)
    _add_model(parser)
    _add_data(parser)
    parser.add_argument(
        "--budget",
        type=_budget,
        required=True,
        metavar="KIND=VALUE",
        help="what may remain: units, parameters, macs or bytes, as a fraction (macs=0.5) or a "
        "number (parameters=120000); or latency in milliseconds (latency=2.5); or drop=0.01 for "
        "the model of the fewest macs that was found whose accuracy falls by no more",
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
        "--runtime",
        choices=("keras", "saved_model", "litert", "onnx"),
        default="keras",
        help="what a latency is measured in (default: %(default)s)",
    )
    parser.add_argument(
        "--table",
        type=Path,
        metavar="TABLE.json",
        help="a table of another device for a latency, that `latency-table read` wrote",
    )
    _add_pruning(parser)
    parser.add_argument("--overwrite", action="store_true", help="replace OUT if it is a model")


def _add_data(parser):
    parser.add_argument(
        "--data",
        type=Path,
        required=True,
        metavar="DATA.npz",
        help="arrays x and y; with x_val and y_val, those are evaluated on",
    )


def _add_pruning(parser):
    """Adds the arguments that say how a model is pruned and trained."""
    parser.add_argument(
        "--epochs",
        type=_whole,
        default=0,
        metavar="N",
        help="train the small model for so long (default: %(default)s)",
    )
    parser.add_argument("--criterion", default="auto", help="default: %(default)s")
    parser.add_argument(
        "--selection",
        choices=("auto", "uniform", "global", "greedy", "exact"),
        default="auto",
        help="default: %(default)s",
    )
    parser.add_argument(
        "--effort",
        choices=("fast", "best"),
        default="fast",
        help="how long the best way of pruning is searched for (default: %(default)s)",
    )
    parser.add_argument(
        "--exclude", action="append", metavar="LAYER", help="keep the units of a layer"
    )
    parser.add_argument(
        "--round-to",
        type=_count_or_auto,
        metavar="N",
        help="keep multiples of N units; auto for those at which a runtime is fast",
    )
    parser.add_argument("--batch-size", type=_count, metavar="N", help="of training and measuring")
    parser.add_argument(
        "--no-recovery", action="store_true", help="leave out reconstruction and recalibration"
    )
    parser.add_argument(
        "--distill", action="store_true", help="let the dense model lead the training"
    )
    parser.add_argument("--seed", type=_seed, default=0, help="default: %(default)s")


def _add_strip(commands):
    about = "Remove the units that have no effect from a model, and save the smaller one."
    parser = commands.add_parser("strip", help=about, description=about)
    _add_model(parser)
    parser.add_argument(
        "-o", "--out", type=Path, required=True, help="the file or directory to write"
    )
    parser.add_argument(
        "--format",
        choices=("saved_model", "keras", "litert", "onnx"),
        help="the format of the new model (default: by the suffix of OUT, .keras, .tflite or "
        ".onnx, else saved_model)",
    )
    parser.add_argument(
        "--batch-size",
        type=_count,
        metavar="N",
        help="fix the batch size; litert needs it for recurrent layers",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace OUT if it is a model")


def _add_model(parser):
    parser.add_argument("model", type=Path, metavar="MODEL.keras", help="a saved Keras model")
    parser.add_argument(
        "--unsafe",
        action="store_true",
        help="also load Python lambdas, which can run any code: only for files you trust",
    )


class _Version(argparse.Action):
    """Prints the version; only looks it up when asked, as that reads the disk."""

    def __call__(self, parser, *_):
        """Exits with code 0."""
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


def _shares(text):
    try:
        shares = tuple(float(part) for part in text.split(","))
    except ValueError:
        shares = ()
    if not shares or not all(0 < each <= 1 for each in shares):
        raise argparse.ArgumentTypeError(f"must be numbers from 0 to 1, as 0.5,0.25, not {text!r}")
    return shares


def _budget(text):
    kind, _, value = text.partition("=")
    kinds = ("units", "parameters", "macs", "bytes", "latency", "drop")
    if kind not in kinds:
        raise argparse.ArgumentTypeError(
            f"must be KIND=VALUE with a kind among {', '.join(kinds)}, not {text!r}"
        )
    try:
        number = int(value.replace("_", "")) if kind not in ("latency", "drop") else float(value)
    except ValueError:
        try:
            number = float(value)
        except ValueError:
            number = -1.0
    is_fraction = isinstance(number, float) and kind != "latency"
    is_null = number == 0 and kind != "drop"
    if not 0 <= number < float("inf") or is_null or (is_fraction and number > 1):
        expected = "milliseconds" if kind == "latency" else "a fraction up to 1.0 or a whole number"
        expected = "a number from 0 to 1" if kind == "drop" else expected
        raise argparse.ArgumentTypeError(f"{kind} must be {expected}, not {value!r}")
    return kind, number


def _integer(least, most, expected):
    """A converter for integers from `least` to `most`; `expected` is said where it fails."""

    def convert(text):
        if not text.isdecimal() or not least <= int(text) <= most:
            raise argparse.ArgumentTypeError(f"must be {expected}, not {text!r}")
        return int(text)

    return convert


_count = _integer(1, float("inf"), "an integer of at least 1")


def _count_or_auto(text):
    return text if text == "auto" else _count(text)


_whole = _integer(0, float("inf"), "a whole number from 0")
_seed = _integer(0, 2**32 - 1, "an integer from 0 to 2**32 - 1")
