"""What `recalibrate` and `reconstruct` take beside one `predict` of a model just made.

A small residual network, half of its units masked, and a few images. In turns within one run:
`predict` of a fresh copy, tracing included, and both functions. Processor seconds, so that other
work on the machine counts little; also for each group of layers that do not depend on one another,
which is what a pass over the data is needed for. The bound is 5 times `predict` for each group.

    python benchmarks/recovery_cost.py [--rounds N] [--images N] [--out FILE]
"""

import argparse
import json
import os
import platform
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf
from _timing import interleaved, ratio
from rich.console import Console
from rich.table import Table

import tfprune

BOUND = 5.0


def block(x, filters, strides=1, activate=True):
    x = keras.layers.Conv2D(filters, 3, strides=strides, padding="same", use_bias=False)(x)
    x = keras.layers.BatchNormalization()(x)
    return keras.layers.ReLU()(x) if activate else x


def residual_network():
    """About 59,000 parameters; its layers are in a row but for shortcuts."""
    inputs = keras.Input((28, 28, 1))
    x = block(inputs, 16)
    for filters, strides in ((16, 1), (32, 2), (32, 1), (32, 1)):
        y = block(block(x, filters, strides), filters, activate=False)
        if strides > 1:
            x = keras.layers.Conv2D(filters, 1, strides=strides)(x)
        x = keras.layers.ReLU()(keras.layers.Add()([x, y]))
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, keras.layers.Dense(10)(x))


def measured(rounds, images):
    keras.utils.set_random_seed(0)
    dense = residual_network()
    masked = tfprune.prunable(dense)
    tfprune.prune_units(masked, 0.5)
    x = np.random.default_rng(0).normal(size=(images, 28, 28, 1)).astype("float32")
    _, report = tfprune.reconstruct(masked, dense, x, return_report=True)
    norms = sum(isinstance(layer, keras.layers.BatchNormalization) for layer in dense.layers)
    groups = {"recalibrate": norms, "reconstruct": len(report.layers) + len(report.skipped)}
    contenders = {
        "predict": lambda: keras.models.clone_model(dense).predict(x, verbose=0),
        "recalibrate": lambda: tfprune.recalibrate(masked, x),
        "reconstruct": lambda: tfprune.reconstruct(masked, dense, x),
    }
    times = interleaved(contenders, rounds=rounds, repeats=1, clock=time.process_time)
    found = {"parameters": dense.count_params(), "images": images, "methods": {}}
    for name, count in groups.items():
        whole = ratio(times[name], times["predict"])
        found["methods"][name] = {
            "seconds": float(np.median(times[name])),
            "predict": float(np.median(times["predict"])),
            "ratio": whole.median,
            "groups": count,
            "ratio_for_a_group": whole.median / count,
        }
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--images", type=int, default=64)
    results = Path(__file__).parent / "results"
    parser.add_argument("--out", type=Path, default=results / "recovery_cost.json")
    arguments = parser.parse_args()
    found = measured(arguments.rounds, arguments.images)
    table = Table("", "seconds", "predict", "x predict", "groups", "x predict a group")
    for name, row in found["methods"].items():
        table.add_row(
            name,
            f"{row['seconds']:.2f}",
            f"{row['predict']:.2f}",
            f"{row['ratio']:.1f}",
            str(row["groups"]),
            f"{row['ratio_for_a_group']:.1f} (bound {BOUND:g})",
        )
    Console().print(table)
    machine = {"python": platform.python_version(), "tensorflow": tf.__version__}
    machine |= {"keras": keras.__version__, "tfprune": tfprune.__version__}
    arguments.out.write_text(json.dumps({"machine": machine, **found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
