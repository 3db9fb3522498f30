"""From which sparsity on LiteRT is faster with sparse Dense kernels than with dense ones.

Two Dense layers of equal width, their kernels pruned in blocks along the input axis, are exported
twice, with `sparse` and without, and the two files are called in turns with single samples: float32
in blocks of 4, the ones LiteRT has a fast kernel for, and int8 in blocks of 16.

    python benchmarks/sparse_litert.py [--fast] [--out FILE]
"""

import argparse
import json
import os
import platform
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf
from _timing import Ratio, interleaved, ratio
from rich.console import Console
from rich.table import Table

import tfprune
from tfprune.exporting.loading import load
from tfprune.patterns import Block

SPARSITIES = (0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)
POINTWISE = "float32, 1x1 convolutions"
CASES = {"float32, blocks of 4": (None, 4), "int8, blocks of 16": ("int8", 16), POINTWISE: None}
WIDTHS = {POINTWISE: (96, 160, 224)}


@dataclass(frozen=True)
class Point:
    """What was measured of one network: the sparse file over the dense one.

    Attributes:
        case, width, sparsity: Which network.
        time: The ratio of times of one call.
        bytes: The ratio of the sizes of the files.
        microseconds: The median time of the dense one.
    """

    case: str
    width: int
    sparsity: float
    time: Ratio
    bytes: float
    microseconds: float


def network(width, sparsity, rows):
    """Two Dense layers, and zeros in blocks of `rows` inputs in both."""
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Dense(width, activation="relu") for _ in range(2)]
    model = keras.Sequential([keras.Input((width,), name="x"), *layers])
    for layer in layers:
        kernel = layer.kernel.numpy()
        layer.kernel.assign(kernel * Block((rows, 1)).mask(np.abs(kernel), sparsity))
    return model


def mobile_network(size, sparsity):
    """A MobileNet, and zeros in its 1x1 convolutions."""
    keras.utils.set_random_seed(0)
    layers = keras.layers
    x = inputs = keras.Input((size, size, 3), batch_size=1, name="x")
    x = layers.Conv2D(32, 3, strides=2)(layers.ZeroPadding2D(1)(x))
    strides = (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1)
    for number, filters in enumerate((64, 128, 128, 256, 256, 512, 512, 512, 512, 512, 512)):
        x = layers.ZeroPadding2D(1)(layers.ReLU(6.0)(x))
        x = layers.DepthwiseConv2D(3, strides=strides[number])(x)
        pointwise = layers.Conv2D(filters, 1)
        x = pointwise(layers.ReLU(6.0)(x))
        kernel = pointwise.kernel.numpy()
        kept = np.abs(kernel) > np.quantile(np.abs(kernel), sparsity)
        pointwise.kernel.assign(kernel * kept)
    x = layers.GlobalAveragePooling2D()(layers.ReLU(6.0)(x))
    return keras.Model(inputs, layers.Dense(10)(x))


def measured(case, width, sparsity, rounds):
    """Both files of a network, called in turns."""
    if case == POINTWISE:
        quantize, model, shape = None, mobile_network(width, sparsity), (1, width, width, 3)
    else:
        quantize, rows = CASES[case]
        model, shape = network(width, sparsity, rows), (128, width)
    data = np.random.default_rng(0).normal(size=shape).astype("float32")
    options = {"format": "litert", "quantize": quantize, "representative_data": data}
    with tempfile.TemporaryDirectory() as directory:
        paths = [Path(directory) / f"{name}.tflite" for name in ("dense", "sparse")]
        for path, sparse in zip(paths, (False, "size"), strict=True):
            tfprune.export(model, path, sparse=sparse, **options)
        dense, sparse = (load(path).run for path in paths)
        dense_bytes, sparse_bytes = (path.stat().st_size for path in paths)
    sample = {"x": data[:1]}
    contenders = {"dense": lambda: dense(sample), "sparse": lambda: sparse(sample)}
    times = interleaved(contenders, rounds=rounds, repeats=20, warm_up=3)
    return Point(
        case=case,
        width=width,
        sparsity=sparsity,
        time=ratio(times["sparse"], times["dense"]),
        bytes=sparse_bytes / dense_bytes,
        microseconds=float(1e6 * np.median(times["dense"])),
    )


def break_even(points):
    """The sparsity at which the ratio of times comes to 1, linear between points; None if never."""
    for before, after in zip(points, points[1:], strict=False):
        if before.time.median > 1 >= after.time.median:
            share = (before.time.median - 1) / (before.time.median - after.time.median)
            return before.sparsity + share * (after.sparsity - before.sparsity)
    return points[0].sparsity if points[0].time.median <= 1 else None


def report(points, found):
    """A row a network, and the break-even of each width."""
    table = Table(title="Sparse over dense LiteRT, single samples", title_justify="left")
    for column in ("", "width", "sparsity", "time (quartiles)", "bytes", "dense"):
        table.add_column(column, justify="left" if not column else "right")
    for point in points:
        table.add_row(
            point.case,
            str(point.width),
            f"{point.sparsity:.2f}",
            str(point.time),
            f"{point.bytes:.2f}",
            f"{point.microseconds:.0f} µs",
        )
    console = Console()
    console.print(table)
    for row in found:
        sparsity = "never" if row["sparsity"] is None else f"{row['sparsity']:.2f}"
        console.print(f"break-even, {row['case']}, width {row['width']}: {sparsity}")


def main():
    """Measures, prints and writes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--fast", action="store_true", help="one width, few rounds")
    default = Path(__file__).parent / "results" / "sparse_litert.json"
    parser.add_argument("--out", type=Path, default=default)
    arguments = parser.parse_args()
    sparsities, rounds = ((0.5, 0.95), 10) if arguments.fast else (SPARSITIES, 60)
    points, found = [], []
    for case in CASES:
        for width in WIDTHS.get(case, (256, 512, 1024))[: 1 if arguments.fast else None]:
            curve = [measured(case, width, sparsity, rounds) for sparsity in sparsities]
            points += curve
            found.append({"case": case, "width": width, "sparsity": break_even(curve)})
    report(points, found)
    versions = {"tensorflow": tf.__version__, "keras": keras.__version__}
    machine = {"python": platform.python_version(), "processors": os.cpu_count(), **versions}
    content = {"machine": machine, "rounds": rounds, "break_even": found, "points": points}
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(content, indent=2, default=asdict) + "\n")
    Console().print(f"Written to {arguments.out}")


if __name__ == "__main__":
    main()
