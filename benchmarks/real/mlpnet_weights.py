"""MLPNet (784-40-20-10) on MNIST: accuracy when weights go in one call, without training.

Networks of several seeds are trained; then single weights are pruned to a sparsity with 5,000
training images: by "obc", which needs no labels; by "second_order" as it is, with labels, and with
`reconstruct` after it; by "sparsegpt"; by magnitude; and by random choice. The network and the
sparsities are those of CHITA and WoodFisher.

    python benchmarks/real/mlpnet_weights.py --mnist FOLDER [--fast] [--out FILE] [--plot FILE]
"""

import argparse
import gc
import os
import time
import warnings
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from _data import mnist
from _plots import bars
from _results import RESULTS, mean_and_deviation, write
from rich.console import Console
from rich.progress import track
from rich.table import Table

import tfprune

SEEDS = 5
EPOCHS, BATCH, RATE = 30, 256, 1e-3
CALIBRATION = 5000
SPARSITIES = (0.95, 0.98)
GOALS = {0.95: 92.0, 0.98: 80.0}


def trained(seed, x, y):
    """MLPNet after thirty epochs."""
    keras.utils.set_random_seed(seed)
    model = keras.Sequential(
        [
            keras.Input((784,)),
            keras.layers.Dense(40, activation="relu", name="first"),
            keras.layers.Dense(20, activation="relu", name="second"),
            keras.layers.Dense(10, name="last"),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(RATE), loss)
    model.fit(x, y, BATCH, epochs=EPOCHS, verbose=0)
    return model


def by(criterion, distribution="global", recover=False):
    """A way to prune: from the dense model, a sparsity, data and a seed to the sparse model."""

    def prune(dense, sparsity, data, seed):
        given = tfprune.criteria.Random(seed) if criterion == "random" else criterion
        model = tfprune.prunable(dense)
        tfprune.prune_weights(model, sparsity, given, distribution=distribution, data=data)
        return tfprune.reconstruct(model, dense, data[:1]) if recover else model

    return prune


WAYS = {
    "obc": lambda dense, sparsity, data, seed: by("obc")(dense, sparsity, data[:1], seed),
    "second_order + reconstruct": by("second_order", recover=True),
    "sparsegpt": by("sparsegpt", "uniform"),
    "second_order": by("second_order"),
    "magnitude": by("magnitude"),
    "random": by("random", "uniform"),
}


def measure(arrays, seeds):
    """Accuracies in % by way and sparsity, seed by seed; those of the dense models; and seconds."""
    x, y, x_test, y_test = arrays
    x, x_test = (images.reshape(len(images), -1) for images in (x, x_test))
    data = x[:CALIBRATION], y[:CALIBRATION]

    def accuracy(model):
        found = model.predict(x_test, batch_size=1000, verbose=0).argmax(axis=1)
        return 100 * float(np.mean(found == y_test))

    dense, cells = [], {way: {str(sparsity): [] for sparsity in SPARSITIES} for way in WAYS}
    seconds = {way: [] for way in WAYS}
    for seed in track(range(seeds), "Training and pruning", console=Console(stderr=True)):
        keras.backend.clear_session()
        gc.collect()
        model = trained(seed, x, y)
        dense.append(accuracy(model))
        for sparsity in SPARSITIES:
            for way, prune in WAYS.items():
                start = time.perf_counter()
                sparse = prune(model, sparsity, data, seed)
                seconds[way].append(time.perf_counter() - start)
                check_sparsity(sparse, sparsity)
                cells[way][str(sparsity)].append(accuracy(sparse))
    return {"dense": dense, "ways": cells, "seconds": {w: np.mean(s) for w, s in seconds.items()}}


def check_sparsity(model, sparsity):
    """Counts the elements of the kernels that are not 0."""
    kernels = [np.asarray(layer.kernel) for layer in model.layers]
    left, size = sum(map(np.count_nonzero, kernels)), sum(kernel.size for kernel in kernels)
    if left > round((1 - sparsity) * size) + len(kernels):  # each is rounded where it is by layers
        raise AssertionError(f"{left} of {size} elements are left at a sparsity of {sparsity}")


def show(found):
    """Prints means and deviations."""
    table = Table(title=f"Accuracy in %, mean (deviation); dense {np.mean(found['dense']):.1f}")
    table.add_column("sparsity")
    for sparsity in SPARSITIES:
        table.add_column(f"{sparsity:.0%}", justify="right")
    table.add_column("seconds", justify="right")
    for way, cells in found["ways"].items():
        values = [np.array(cells[str(sparsity)]) for sparsity in SPARSITIES]
        row = map(mean_and_deviation, values)
        table.add_row(way, *row, f"{found['seconds'][way]:.0f}")
    table.add_row("goal", *(f"{GOALS[sparsity]:.1f}" for sparsity in SPARSITIES), "")
    Console(width=100).print(table)


def plot(found, path):
    """A bar for each way and sparsity."""
    ways = {w: [cells[str(s)] for s in SPARSITIES] for w, cells in found["ways"].items()}
    groups = [f"{sparsity:.0%} sparse" for sparsity in SPARSITIES]
    title = f"MLPNet on MNIST, weights, no training; dense {np.mean(found['dense']):.1f}"
    bars(path, title, groups, ways, goals=list(GOALS.values()), limits=(0, 100))


def main():
    """Measures, prints a table, writes JSON and a plot."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mnist", type=Path, help="the folder of MNIST's IDX files")
    parser.add_argument("--fast", action="store_true", help="one seed: to see that it runs")
    parser.add_argument("--out", type=Path, default=RESULTS / "mlpnet_weights.json")
    parser.add_argument("--plot", type=Path, default=RESULTS / "mlpnet_weights.png")
    arguments = parser.parse_args()
    arrays = mnist(arguments.mnist)
    warnings.simplefilter("ignore")
    found = measure(arrays, 1 if arguments.fast else SEEDS)
    show(found)
    plot(found, arguments.plot)
    settings = {"calibration": CALIBRATION, "epochs": EPOCHS, "sparsities": SPARSITIES}
    content = {"settings": settings, **found}
    write(arguments.out, content)


if __name__ == "__main__":
    main()
