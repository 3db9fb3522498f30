"""Accuracy after units are removed in one shot, with each way to bring it back, several seeds each.

A CNN, a small residual network and an MLP on scikit-learn's digits. Each is trained, then the units
with the lowest magnitude go, the same fraction of each layer, until half, or 70%, of the
multiply-accumulates (MACs) are gone. From the same pruned model every contender starts: nothing,
recalibrated statistics, means folded into biases, least squares from few and from many images
without labels, and, for reference, a few epochs of distillation and of plain training. All are
stripped before they are judged.

    python benchmarks/recovery.py [--seeds N] [--out FILE]
"""

import argparse
import gc
import json
import os
import platform
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf
from _digits import digits
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

import tfprune
from tfprune.coupling.costs import costs

REMOVED = (0.5, 0.7)
SEEDS = 5
EPOCHS = 8
SHORT = 2
BATCH = 32
CALIBRATION = 256
EXAMPLES = (16, 64, 1024, 4096)
"""Numbers of images that `reconstruct` gets too, beside `CALIBRATION`."""


X, Y, X_TEST, Y_TEST = digits()
IMAGES = X[:CALIBRATION]


def images(number):
    """The first training images; beyond those there are, the same moved by a pixel."""
    moved = [np.roll(X, shift, axis=(1, 2)) for shift in ((0, 0), (0, 1), (1, 0), (1, 1))]
    return np.concatenate(moved)[:number]


def convolution(x, filters, padding="same", activate=True):
    x = keras.layers.Conv2D(filters, 3, padding=padding, use_bias=False)(x)
    x = keras.layers.BatchNormalization(momentum=0.9)(x)  # few steps: 0.99 would lag behind
    return keras.layers.ReLU()(x) if activate else x


def cnn():
    """Three convolutions, 32, 64 and 64 filters, with batch normalisation."""
    inputs = keras.Input((8, 8, 1))
    x = convolution(convolution(convolution(inputs, 32), 64, "valid"), 64, "valid")
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, keras.layers.Dense(10)(x))


def mlp():
    """Two hidden layers of 256 units: as many inputs as there are calibration images."""
    inputs = keras.Input((8, 8, 1))
    x = keras.layers.Flatten()(inputs)
    for _ in range(2):
        x = keras.layers.Dense(256, activation="relu")(x)
    return keras.Model(inputs, keras.layers.Dense(10)(x))


def resnet():
    """A stem and two residual blocks of 24 filters."""
    inputs = keras.Input((8, 8, 1))
    x = convolution(inputs, 24)
    for _ in range(2):
        y = convolution(convolution(x, 24), 24, activate=False)
        x = keras.layers.ReLU()(keras.layers.Add()([x, y]))
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, keras.layers.Dense(10)(x))


NETWORKS = {"CNN 32-64-64": cnn, "ResNet 2 x 24": resnet, "MLP 256-256": mlp}


def compiled(model, rate=2e-3):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(rate), loss, metrics=["accuracy"])
    return model


def trained(masked, dense):
    """A few epochs on the labels."""
    masked.fit(X, Y, BATCH, epochs=SHORT, verbose=0)
    return masked


def recalibrated(model):
    """New statistics, where there are any."""
    norms = [x for x in model.layers if isinstance(x, keras.layers.BatchNormalization)]
    return tfprune.recalibrate(model, IMAGES) if norms else model


METHODS = {
    "nothing": lambda masked, dense: masked,
    "recalibrate": lambda masked, dense: recalibrated(masked),
    "compensate": lambda masked, dense: tfprune.compensate(masked, dense, IMAGES),
    "reconstruct": lambda masked, dense: tfprune.reconstruct(masked, dense, IMAGES),
    **{
        f"reconstruct, {number} images": lambda masked, dense, number=number: tfprune.reconstruct(
            masked, dense, images(number)
        )
        for number in EXAMPLES
    },
    "reconstruct + recalibrate": lambda masked, dense: recalibrated(
        tfprune.reconstruct(masked, dense, IMAGES)
    ),
    f"train, {SHORT} epochs": trained,
    f"distill, {SHORT} epochs": lambda masked, dense: tfprune.distill(
        masked, dense, (X, Y), epochs=SHORT, batch_size=BATCH, verbose=0
    ),
}


def macs(model):
    return sum(call.macs for call in costs(model))


def pruned(dense, fraction):
    """The dense model with masks, the same fraction of each layer's units gone; fresh slots."""
    masked = compiled(tfprune.prunable(dense), 1e-3)
    tfprune.prune_units(masked, fraction)
    return masked


def fraction_for(dense, removed, steps=8):
    """The fraction of the units that removes a share of the MACs, by bisection."""
    low, high, limit = 0.0, 1.0, (1 - removed) * macs(dense)
    for _ in range(steps):
        middle = (low + high) / 2
        small = tfprune.strip(pruned(dense, middle), check=False)
        low, high = (middle, high) if macs(small) > limit else (low, middle)
    return high


def trained_network(name, seed):
    keras.backend.clear_session()
    gc.collect()  # models are cycles, and hold much memory
    keras.utils.set_random_seed(seed)
    model = compiled(NETWORKS[name]())
    model.fit(X, Y, BATCH, epochs=EPOCHS, verbose=0)
    return model


def accuracy(model):
    return float(np.mean(np.argmax(model.predict(X_TEST, 256, verbose=0), axis=-1) == Y_TEST))


def measure(seeds, write):
    """For each network and share of MACs: accuracies by method, and what was reached.

    `write` gets what is known after each seed, so that a run which is stopped is not lost.
    """
    found, total = {}, len(NETWORKS) * seeds * len(REMOVED) * len(METHODS)
    with Progress(console=Console(stderr=True)) as progress:
        task = progress.add_task("Recovering", total=total)
        for seed in range(seeds):  # seeds outermost: all contenders take turns
            for name in NETWORKS:
                dense, at = trained_network(name, seed), found.setdefault(name, {})
                at.setdefault("dense", {"accuracy": []})["accuracy"].append(accuracy(dense))
                for removed in REMOVED:
                    cell = at.setdefault(str(removed), {"methods": {}})
                    if "fraction" not in cell:  # the same for all seeds: it counts units alone
                        cell["fraction"] = fraction_for(dense, removed)
                    for method in METHODS:
                        run(dense, cell, method, macs(dense))
                        progress.advance(task)
            summarise(found)
            write(found)
    return found


def run(dense, cell, method, dense_macs):
    """One contender, from the same pruned model as all others."""
    keras.utils.set_random_seed(0)
    masked = pruned(dense, cell["fraction"])
    start = time.perf_counter()
    recovered = METHODS[method](masked, dense)
    seconds = time.perf_counter() - start
    small = tfprune.strip(recovered)
    cell["removed_macs"] = 1 - macs(small) / dense_macs
    result = cell["methods"].setdefault(method, {"accuracy": [], "seconds": []})
    result["accuracy"].append(accuracy(small))
    result["seconds"].append(seconds)


def summarise(found):
    """Mean and deviation of every list of accuracies."""
    for at in found.values():
        methods = [cell for removed in REMOVED for cell in at[str(removed)]["methods"].values()]
        for cell in [at["dense"], *methods]:
            values = cell["accuracy"]
            cell["mean"] = float(np.mean(values))
            cell["deviation"] = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0


def print_tables(found):
    console = Console(width=110)
    for name, at in found.items():
        dense = at["dense"]
        table = Table(
            title=f"{name}: test accuracy in %, mean (deviation); dense "
            f"{100 * dense['mean']:.1f} ({100 * dense['deviation']:.1f})"
        )
        table.add_column("After pruning in one shot")
        for removed in REMOVED:
            reached = at[str(removed)]["removed_macs"]
            table.add_column(f"{reached:.0%} of MACs gone", justify="right")
        table.add_column("seconds", justify="right")
        for method in METHODS:
            cells = [at[str(removed)]["methods"][method] for removed in REMOVED]
            seconds = np.median([s for cell in cells for s in cell["seconds"]])
            texts = [f"{100 * c['mean']:.1f} ({100 * c['deviation']:.1f})" for c in cells]
            table.add_row(method, *texts, f"{seconds:.1f}")
        console.print(table)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=SEEDS, help="1 to see that it runs")
    results = Path(__file__).parent / "results"
    parser.add_argument("--out", type=Path, default=results / "recovery.json")
    arguments = parser.parse_args()
    versions = {
        "python": platform.python_version(),
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
        "tfprune": tfprune.__version__,
    }
    setup = {"epochs": EPOCHS, "short": SHORT, "batch": BATCH, "calibration": CALIBRATION}

    def write(found):
        result = {"machine": versions, "setup": setup, "networks": found}
        arguments.out.write_text(json.dumps(result, indent=2) + "\n")

    print_tables(measure(arguments.seeds, write))
    print(f"Written to {arguments.out}")


if __name__ == "__main__":
    main()
