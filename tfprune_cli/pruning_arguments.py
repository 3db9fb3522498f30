"""The arguments of `prune` and `pareto`."""

from pathlib import Path

from tfprune_cli import values
from tfprune_cli.arguments import add_json, add_model, add_outputs, add_overwrite, command


def add_pareto(commands):
    """Adds the command `pareto`."""
    about = (
        "Prune a compiled model to several budgets, and print accuracy over cost. The same command "
        "goes on after an interruption."
    )
    parser = command(commands, "pareto", about)
    add_model(parser)
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
        type=values.shares,
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
    add_json(parser)


def add_prune(commands):
    """Adds the command `prune`."""
    about = "Prune the units of a compiled model to a budget, train it on, and save what is left."
    parser = command(commands, "prune", about)
    add_model(parser)
    _add_data(parser)
    parser.add_argument(
        "--budget",
        type=values.budget,
        required=True,
        metavar="KIND=VALUE",
        help="what may remain: units, parameters, macs or bytes, as a fraction (macs=0.5) or a "
        "number (parameters=120000); or latency in milliseconds (latency=2.5); or drop=0.01 for "
        "the model of the fewest macs that was found whose accuracy falls by no more",
    )
    add_outputs(parser)
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
    parser.add_argument(
        "--quantize",
        choices=("int8",),
        help="int8 weights and, in .tflite files, activations, which are calibrated on DATA; in "
        ".keras files and SavedModels int8 weights of dense layers and embeddings",
    )
    _add_pruning(parser)
    add_overwrite(parser)
    add_json(parser)


def check(parser, arguments):
    """Exits with code 2 where arguments do not fit together.

    Args:
        parser: That of the command.
        arguments: What it parsed.
    """
    learning_rate = getattr(arguments, "learning_rate", None)
    if learning_rate is not None and not arguments.epochs:
        parser.error("--learning-rate is for the training, and there is none: give --epochs too")


def _add_data(parser):
    parser.add_argument(
        "--data",
        type=Path,
        required=True,
        metavar="DATA.npz",
        help="arrays x and y; with x_val and y_val, those are evaluated on",
    )
    parser.add_argument(
        "--validation",
        type=values.file_or_share,
        metavar="FILE.npz",
        help="arrays x and y that are evaluated on; or the share of DATA, from its end, that is "
        "held out for it, as 0.2 (default: x_val and y_val, or else a fifth of DATA, spread)",
    )


def _add_pruning(parser):
    """Adds the arguments that say how a model is pruned and trained."""
    parser.add_argument(
        "--epochs",
        type=values.whole,
        default=0,
        metavar="N",
        help="train the small model for so long, and keep the best weights (default: %(default)s)",
    )
    parser.add_argument(
        "--learning-rate",
        type=values.positive,
        metavar="RATE",
        help="of this training (default: what the model was compiled with)",
    )
    parser.add_argument(
        "--criterion",
        choices=values.CRITERIA,
        default="auto",
        metavar="NAME",
        help="which units go first: " + ", ".join(values.CRITERIA) + " (default: %(default)s)",
    )
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
        type=values.count_or_auto,
        metavar="N",
        help="keep multiples of N units; auto for those at which a runtime is fast",
    )
    parser.add_argument(
        "--batch-size", type=values.count, metavar="N", help="of training and measuring"
    )
    parser.add_argument(
        "--no-recovery", action="store_true", help="leave out reconstruction and recalibration"
    )
    parser.add_argument(
        "--distill", action="store_true", help="let the dense model lead the training"
    )
    parser.add_argument("--seed", type=values.seed, default=0, help="default: %(default)s")
