"""LeNet-300-100 on MNIST: accuracy when units go in one call, without labels or training.

Networks of several seeds are trained; then units of the hidden layers are pruned to a share of all,
with 3,000 training images: by `tfprune.prune` as it is by default; by the same criterion with
effort="best", in rounds where these are better; by the best of the criteria that were the default
before ("magnitude", "l2" and "activation_variance", judged on held-out images); and by random
choice. All are followed by `reconstruct`.

    python benchmarks/real/lenet_units.py --mnist FOLDER [--fast] [--out FILE] [--plot FILE]
"""

import argparse
import gc
import os
import warnings
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from _data import mnist
from _plots import lines
from _results import RESULTS, mean_and_deviation, write
from rich.console import Console
from rich.progress import track
from rich.table import Table

import tfprune

SEEDS = 5
EPOCHS, BATCH, RATE = 8, 256, 1e-3
CALIBRATION = 3000
REMAINING = (0.3, 0.2, 0.1, 0.05)
BEFORE = ("magnitude", "l2", "activation_variance")
GOALS = {0.2: 94.5, 0.1: 87.5, 0.05: 66.0}


def trained(seed, x, y):
    """LeNet-300-100 after eight epochs."""
    keras.utils.set_random_seed(seed)
    model = keras.Sequential(
        [
            keras.Input((784,)),
            keras.layers.Dense(300, activation="relu", name="first"),
            keras.layers.Dense(100, activation="relu", name="second"),
            keras.layers.Dense(10, name="last"),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(RATE), loss)
    model.fit(x, y, BATCH, epochs=EPOCHS, verbose=0)
    return model


def pruned(model, share, data, way, seed):
    """The small model, and the seconds it took."""
    criterion, options = way, {}
    if way == "default":
        criterion = "auto"
    elif way == "in rounds":
        criterion, options = "layerwise_obs", {"effort": "best"}
    elif way == "random":
        criterion = tfprune.criteria.Random(seed)
    elif way == "before":
        tried = [pruned(model, share, data, each, seed) for each in BEFORE]
        small, _, _ = min(tried, key=lambda found: found[1])
        return small, None, sum(seconds for _, _, seconds in tried)
    small, report = tfprune.prune(
        model, 1 - share, (data,), criterion=criterion, return_report=True, **options
    )
    return small, report.stages["recalibrate"]["error"], report.seconds


WAYS = ("default", "in rounds", "before", "random")


def measure(arrays, seeds):
    """Accuracies in % and seconds by way and share, seed by seed; and those of the dense models."""
    x, y, x_test, y_test = arrays
    x, x_test = (images.reshape(len(images), -1) for images in (x, x_test))

    def accuracy(model):
        found = model.predict(x_test, batch_size=1000, verbose=0).argmax(axis=1)
        return 100 * float(np.mean(found == y_test))

    dense, cells = [], {way: {str(share): [] for share in REMAINING} for way in WAYS}
    seconds = {way: [] for way in WAYS}
    for seed in track(range(seeds), "Training and pruning", console=Console(stderr=True)):
        keras.backend.clear_session()
        gc.collect()
        model = trained(seed, x, y)
        dense.append(accuracy(model))
        for share in REMAINING:
            for way in WAYS:
                small, _, took = pruned(model, share, x[:CALIBRATION], way, seed)
                cells[way][str(share)].append(accuracy(small))
                seconds[way].append(took)
    return {"dense": dense, "ways": cells, "seconds": {w: np.mean(s) for w, s in seconds.items()}}


def show(found):
    """Prints means and deviations."""
    table = Table(title=f"Accuracy in %, mean (deviation); dense {np.mean(found['dense']):.1f}")
    table.add_column("units that remain")
    for share in REMAINING:
        table.add_column(f"{share:.0%}", justify="right")
    table.add_column("seconds", justify="right")
    for way, cells in found["ways"].items():
        values = [np.array(cells[str(share)]) for share in REMAINING]
        row = map(mean_and_deviation, values)
        table.add_row(way, *row, f"{found['seconds'][way]:.0f}")
    table.add_row("goal", *(f"{GOALS[s]:.1f}" if s in GOALS else "" for s in REMAINING), "")
    Console(width=100).print(table)


def plot(found, path):
    """Accuracy over the share of units that remains."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    ways = {w: [cells[str(s)] for s in REMAINING] for w, cells in found["ways"].items()}
    label = "hidden units that remain"
    lines(axes, REMAINING, ways, label=label, dense=np.mean(found["dense"]))
    axes.plot(*zip(*GOALS.items(), strict=True), "x", color="red", label="goal")
    axes.set_title("LeNet-300-100 on MNIST, one call, no labels, no training")
    axes.legend()
    figure.savefig(path, dpi=80)


def main():
    """Measures, prints a table, writes JSON and a plot."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mnist", type=Path, help="the folder of MNIST's IDX files")
    parser.add_argument("--fast", action="store_true", help="one seed: to see that it runs")
    parser.add_argument("--out", type=Path, default=RESULTS / "lenet_units.json")
    parser.add_argument("--plot", type=Path, default=RESULTS / "lenet_units.png")
    arguments = parser.parse_args()
    arrays = mnist(arguments.mnist)
    warnings.simplefilter("ignore")
    found = measure(arrays, 1 if arguments.fast else SEEDS)
    show(found)
    plot(found, arguments.plot)
    settings = {"calibration": CALIBRATION, "epochs": EPOCHS, "remaining": REMAINING}
    content = {"settings": settings, **found}
    write(arguments.out, content)


if __name__ == "__main__":
    main()
