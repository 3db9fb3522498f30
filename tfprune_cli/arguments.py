"""The arguments of the commands; those of `prune` and `pareto` are in `pruning_arguments`."""

from pathlib import Path

from tfprune_cli import values


def command(commands, name, about):
    """The parser of a command.

    Args:
        commands: What `add_subparsers` returned.
        name: The command.
        about: What it does, a sentence.
    """
    return commands.add_parser(name, help=about, description=about)


def add_demo(commands):
    """Adds the command `demo`."""
    about = "Train, prune, strip and measure a small network on handwritten digits."
    parser = command(commands, "demo", about)
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("tfprune-demo"),
        metavar="DIR",
        help="the directory for the models and the plot (default: %(default)s)",
    )
    parser.add_argument(
        "--target",
        type=values.fraction,
        default=0.5,
        metavar="FRACTION",
        help="the fraction of units to remove (default: %(default)s)",
    )
    parser.add_argument(
        "--seed",
        type=values.seed,
        default=0,
        help="seed of the data split, the weights and the shuffling (default: %(default)s)",
    )


def add_explain(commands):
    """Adds the command `explain`."""
    about = "Print the coupled units of a model, what each saves, and which cannot be removed."
    parser = command(commands, "explain", about)
    add_model(parser)
    parser.add_argument(
        "--plot", type=Path, metavar="FILE", help="also draw the graph, as .png, .svg or .pdf"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace FILE if it exists")
    add_json(parser)


def add_inspect(commands):
    """Adds the command `inspect`."""
    about = "Print the layers of a model with parameters, multiply-accumulates and sparsity."
    parser = command(commands, "inspect", about)
    add_model(parser)
    add_json(parser)


def add_summary(commands):
    """Adds the command `summary`."""
    about = "Print the sparsity, frozen share and pattern of the masks of a model."
    parser = command(commands, "summary", about)
    add_model(parser)
    add_json(parser)


def add_compare(commands):
    """Adds the command `compare`."""
    about = (
        "Compare two Keras models, or a Keras model with what was exported of it: sizes, latency "
        "and metrics."
    )
    parser = command(commands, "compare", about)
    add_model(parser)
    parser.add_argument(
        "others",
        type=Path,
        nargs="+",
        metavar="OTHER",
        help="a saved Keras model; or exported files: SavedModels, .tflite, .onnx",
    )
    parser.add_argument(
        "--data",
        type=Path,
        metavar="DATA.npz",
        help="arrays x and y, to evaluate the metrics on that the models are compiled with; for "
        "exported files x is enough, to compare outputs on",
    )
    parser.add_argument(
        "--no-latency", action="store_true", help="leave out latencies, which takes less time"
    )
    add_json(parser)


def add_latency_table(commands):
    """Adds the command `latency-table`, which has actions."""
    about = "Measure the latency of the pieces of a model on another device."
    parser = command(commands, "latency-table", about)
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    about = "Write small models, and the commands of the runtime's benchmark tool that time them."
    write = command(actions, "write", about)
    add_model(write)
    write.add_argument(
        "--runtime", choices=("litert", "onnx"), default="litert", help="default: %(default)s"
    )
    write.add_argument(
        "--threads", type=values.count, default=1, metavar="N", help="default: %(default)s"
    )
    write.add_argument(
        "--quantize", choices=("float16", "dynamic", "int8"), help="of LiteRT; default: none"
    )
    write.add_argument("--batch-size", type=values.count, metavar="N", help="default: 1")
    write.add_argument(
        "-o", "--out", type=Path, required=True, metavar="DIR", help="the folder, which is new"
    )
    about = "Read what the benchmark tool printed into a table, for `tfprune.budgets.Latency`."
    read = command(actions, "read", about)
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


def add_strip(commands):
    """Adds the command `strip`."""
    about = "Remove the units that have no effect from a model, and save the smaller one."
    parser = command(commands, "strip", about)
    add_model(parser)
    parser.add_argument(
        "-o", "--out", type=Path, required=True, help="the file or directory to write"
    )
    parser.add_argument(
        "--format",
        choices=("saved_model", "keras", "litert", "onnx"),
        help="the format of the new model (default: by the suffix of OUT, .keras, .tflite or "
        ".onnx, else saved_model)",
    )
    _add_batch_size(parser)
    add_overwrite(parser)
    add_json(parser)


def add_export(commands):
    """Adds the command `export`."""
    about = "Export a model for inference, as SavedModel, .keras, LiteRT or ONNX file."
    parser = command(commands, "export", about)
    add_model(parser)
    add_outputs(parser)
    parser.add_argument(
        "--quantize",
        choices=("float16", "dynamic", "int8"),
        help="of .tflite files; int8 is calibrated on --data",
    )
    parser.add_argument(
        "--data",
        type=Path,
        metavar="DATA.npz",
        help="an array x of typical inputs, for --quantize and to compare outputs on (.tflite and "
        ".onnx)",
    )
    _add_batch_size(parser)
    add_overwrite(parser)


def add_model(parser):
    """Adds the model to read."""
    parser.add_argument("model", type=Path, metavar="MODEL.keras", help="a saved Keras model")
    parser.add_argument(
        "--unsafe",
        action="store_true",
        help="also load Python lambdas, which can run any code: only for files you trust",
    )


def add_outputs(parser):
    """Adds the paths to write a model to."""
    parser.add_argument(
        "-o",
        "--out",
        type=Path,
        required=True,
        action="append",
        help="where the model goes: a directory (SavedModel) or a file that ends with .keras, "
        ".tflite or .onnx; can be given more than once",
    )


def add_overwrite(parser):
    """Adds the permission to replace models."""
    parser.add_argument("--overwrite", action="store_true", help="replace OUT if it is a model")


def add_json(parser):
    """Adds the format of what is printed."""
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object, with unrounded numbers"
    )


def _add_batch_size(parser):
    parser.add_argument(
        "--batch-size",
        type=values.count,
        metavar="N",
        help="fix the batch size of .tflite files, which need it for recurrent layers",
    )
