"""LeNet-5 on MNIST at a tenth of its MACs, by L0 gates on filters and neurons.

A dense network is trained. Its units get hard concrete gates (`tfprune.unit_regularizers.L0`, with
MACs as the cost), which are trained with it, and the network without the units whose gates have
closed is trained on. This is done in two rounds, so that in the second a unit costs what it does in
the smaller network. Beside it, the same epochs with `tfprune.prune` in one call, to as many MACs as
L0 has left, and random choice.

    python benchmarks/real/lenet5_units.py --mnist FOLDER [--seeds N] [--out FILE]

The results are written after each seed.
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
from _lenets import error, lenet_5, soft_targets, train
from _plots import bars
from _results import RESULTS, write
from rich.console import Console
from rich.table import Table

import tfprune

DENSE_EPOCHS, RATE = 8, 1e-3
ROUNDS = ({"strength": 0.5, "epochs": 6}, {"strength": 1.0, "epochs": 10})
GATE_RATE, DROPOUT = 0.02, 0.05
LAST = {"epochs": 15, "rate": 2e-3}
CALIBRATION = 3000
GOAL = {"macs": 0.1, "error": 1.0}
WAYS = ("L0", "prune", "random")


def gated(model, x, targets, seed):
    """The network without the units whose gates L0 has closed, in rounds."""
    for plan in ROUNDS:
        masked = tfprune.prunable(model)
        regularizer = tfprune.unit_regularizers.L0(
            plan["strength"],
            cost="macs",
            optimizer=keras.optimizers.Adam(GATE_RATE),
            dropout=DROPOUT,
            seed=seed,
        )
        callback = tfprune.callbacks.RegularizeUnits(regularizer)
        train(masked, x, targets, epochs=plan["epochs"], rate=RATE, callbacks=[callback])
        model = tfprune.strip(masked)
    return model


def measure(seed, arrays):
    """Errors in %, MACs and units of the dense network and of each way."""
    x, y, x_test, y_test = arrays
    keras.utils.set_random_seed(seed)
    begin = time.perf_counter()
    dense = lenet_5()
    train(dense, x, np.eye(10, dtype="float32")[y], epochs=DENSE_EPOCHS, rate=RATE)
    targets = soft_targets(dense, x, y)

    def told(model, start):
        sizes = [layer.kernel.shape[-1] for layer in model.layers if layer.weights]
        found = tfprune.inspect(model)
        return {
            "error": error(model, x_test, y_test),
            "macs": found.macs,
            "parameters": model.count_params(),
            "units": "-".join(map(str, sizes)),
            "seconds": time.perf_counter() - start,
        }

    found = {"dense": told(dense, begin)}
    start = time.perf_counter()
    small = gated(dense, x, targets, seed)
    macs = tfprune.inspect(small).macs
    epochs = sum(plan["epochs"] for plan in ROUNDS) + LAST["epochs"]
    train(small, x, targets, **LAST)
    found["L0"] = told(small, start)
    for way, criterion in (("prune", "auto"), ("random", tfprune.criteria.Random(seed))):
        start = time.perf_counter()
        budget = tfprune.budgets.MACs(macs)
        small = tfprune.prune(dense, budget, (x[:CALIBRATION],), criterion=criterion)
        train(small, x, targets, epochs=epochs, rate=LAST["rate"])
        found[way] = told(small, start)
    return found


def summary(runs):
    """The number of seeds, means and deviations."""
    means = {}
    for way in ("dense", *WAYS):
        errors = [run[way]["error"] for run in runs]
        shares = [run[way]["macs"] / run["dense"]["macs"] for run in runs]
        means[way] = {
            "error": float(np.mean(errors)),
            "deviation": float(np.std(errors, ddof=len(runs) > 1)),
            "macs": float(np.mean(shares)),
            "most_macs": float(max(shares)),
        }
    return {"goal": GOAL, "seeds": len(runs), "means": means, "runs": runs}


def show(found):
    """Prints means and deviations."""
    table = Table(title=f"LeNet-5 on MNIST, {found['seeds']} seeds")
    for column in ("way", "error in %", "MACs", "units of the first seed"):
        table.add_column(column, justify="left" if column == "way" else "right")
    for way, mean in found["means"].items():
        value = f"{mean['error']:.2f} ({mean['deviation']:.2f})"
        table.add_row(way, value, f"{mean['macs']:.1%}", found["runs"][0][way]["units"])
    table.add_row("goal", f"{GOAL['error']:.2f}", f"{GOAL['macs']:.1%}", "")
    Console(width=100).print(table)


def plot(found, path):
    """A bar for each way."""
    ways = {way: [[run[way]["error"] for run in found["runs"]]] for way in ("dense", *WAYS)}
    groups = [f"{found['means']['L0']['macs']:.1%} of the MACs"]
    title = "LeNet-5 on MNIST with fewer units"
    bars(path, title, groups, ways, unit="test error in %", goals=[GOAL["error"]])


def main():
    """Measures, prints a table, writes JSON and a plot."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mnist", type=Path, help="the folder of MNIST's IDX files")
    parser.add_argument("--seeds", type=int, default=5)
    out = RESULTS / "lenet5_units.json"
    parser.add_argument("--out", type=Path, default=out)
    arguments = parser.parse_args()
    arrays = mnist(arguments.mnist)
    warnings.simplefilter("ignore")
    settings = {"dense_epochs": DENSE_EPOCHS, "rounds": ROUNDS, "last": LAST, "rate": RATE}
    settings |= {"gate_rate": GATE_RATE, "dropout": DROPOUT, "calibration": CALIBRATION}
    runs = []
    for seed in range(arguments.seeds):
        keras.backend.clear_session()
        gc.collect()
        runs.append(measure(seed, arrays))
        found = summary(runs)
        content = {"settings": settings, **found}
        write(arguments.out, content)
    show(found)
    plot(found, arguments.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
