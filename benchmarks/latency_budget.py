"""A budget of measured latency beside one of MACs: speed by MACs, and importance kept.

Each network is pruned to half of its latency in LiteRT and in ONNX Runtime (one thread, single
images): by `budgets.Latency` with widths that are found by themselves, and by a budget of MACs with
multiples of 8 which is searched until it is as fast. The dense model and all small ones are then
timed in turns in one run. "speed by MACs" is how much of the speed-up that the share of MACs
promises is there; importance is the share of the sum of scores of units that are kept.

Networks of `keras.applications` have random weights here, so of them speeds tell, and importance
only as a number that selections maximise. A small residual network is trained on Fashion-MNIST; its
accuracy is told after pruning and new batch statistics, without training.

    python benchmarks/latency_budget.py [--models ...] [--sizes 160] [--runtimes litert onnx]
        [--fashion FOLDER] [--out FILE]
"""

import argparse
import gc
import json
import os
import platform
import sys
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).parent / "real"))

import keras
import numpy as np
from _data import FASHION, mnist
from _timing import interleaved, ratio
from rich.console import Console
from rich.table import Table

import tfprune
from tfprune import Selection, budgets
from tfprune.coupling.kept_units import keeping
from tfprune.measuring.runtimes import clock, inference, version
from tfprune.rebuild.engine import rebuild
from tfprune.units.prunable import PrunableUnits
from tfprune.units.scores import UnitScores
from tfprune.units.selection.latency_search import LatencyTimer
from tfprune.units.selection.select_units import select_units

MODELS = ("MobileNetV2", "MobileNetV3Small", "EfficientNetB0", "ResNet50")
FRACTION = 0.5
ROUNDS = 5
SCOPES = ("greedy", "uniform")


class Network:
    """A network with its units and their scores.

    Args:
        model: A Keras model.
        criterion: What scores its units.
        data: What the criterion measures on, or None.
        limits: The most that may be pruned of each layer.
    """

    def __init__(self, model, criterion, data=None):
        self.model = model
        self.units = PrunableUnits(tfprune.prunable(model))
        self.scoring = UnitScores(criterion) if data is None else UnitScores(criterion, data=data)
        self.scores = self.scoring.of(self.units)
        self.prunable = np.concatenate([unit_set.units for unit_set in self.units.sets])

    def kept(self, target, selection):
        """The units that are kept, a boolean array."""
        return ~select_units(self.units, target, self.scoring, selection)

    def importance(self, kept):
        """The share of the sum of scores that is kept."""
        scores = self.scores[self.prunable]
        return float(scores[kept[self.prunable]].sum() / scores.sum())

    def small(self, kept):
        """The model with the units that are kept."""
        return rebuild(self.units.model, keeping(self.units.coupling, kept))


def as_fast_by_macs(network, timer, share, selection):
    """The units kept under the budget of MACs that takes a share of the dense latency.

    Fractions of the MACs are tried by the secant rule; the one that comes nearest is taken.
    """
    known, tried, fraction = [(1.0, 1.0)], [], share
    for _ in range(ROUNDS):
        try:
            kept = network.kept(budgets.MACs(fraction), selection)
        except budgets.UnmetError:
            fraction = (fraction + min(each[0] for each in known)) / 2
            continue
        now, seconds = timer(kept)
        found = seconds / now
        tried.append((abs(found / share - 1), kept))
        if tried[-1][0] < 0.02:
            break
        known.append((fraction, found))
        (x1, y1), (x2, y2) = sorted(known, key=lambda each: abs(each[1] - share))[:2]
        step = (share - y1) * (x2 - x1) / (y2 - y1) if y1 != y2 else 0.0
        fraction = float(np.clip(x1 + step, 0.02, 0.98))
    return min(tried, key=lambda each: each[0])[1]


def macs(model):
    """The multiply-accumulates of one sample."""
    return sum(layer.macs or 0 for layer in tfprune.inspect(model).layers)


def measured(network, runtime, name, size, evaluate=None):
    """The rows of one network in one runtime."""
    budget = budgets.Latency(fraction=FRACTION, runtime=runtime, tolerance=0.03)
    timer, kept, seconds = LatencyTimer(network.units, budget), {}, {}
    for scope in SCOPES:
        start = time.perf_counter()
        try:
            kept[f"latency, {scope}"] = network.kept(budget, Selection(scope, round_to="auto"))
        except budgets.UnmetError as error:
            print(f"{name}, {runtime}, {scope}: {error.lowest}", flush=True)
            continue
        seconds[f"latency, {scope}"] = time.perf_counter() - start
    _, fast = timer(kept["latency, greedy"])
    dense, _ = timer(np.ones_like(kept["latency, greedy"]))
    start = time.perf_counter()
    kept["MACs, greedy"] = as_fast_by_macs(
        network, timer, fast / dense, Selection("greedy", round_to=8)
    )
    seconds["MACs, greedy"] = time.perf_counter() - start
    models = {"dense": network.model, **{each: network.small(kept[each]) for each in kept}}
    calls = {each: inference(model, **budget.conditions) for each, model in models.items()}
    times = interleaved(calls, rounds=60, repeats=1, warm_up=5, clock=clock(runtime))
    rows = []
    for each, model in models.items():
        latency = ratio(times[each], times["dense"])
        share = macs(model) / macs(network.model)
        rows.append(
            {
                "network": name,
                "size": size,
                "runtime": runtime,
                "by": each,
                "ms": 1e3 * float(np.median(times[each])),
                "latency": latency.median,
                "latency_quartiles": [latency.lower_quartile, latency.upper_quartile],
                "macs": share,
                "speed_by_macs": share / latency.median,
                "importance": network.importance(kept[each]) if each in kept else 1.0,
                "seconds_of_search": seconds.get(each),
                "accuracy": None if evaluate is None else evaluate(each, model),
            }
        )
    return rows


def fashion_network(folder):
    """A small network of inverted residuals trained on Fashion-MNIST, the data, and accuracy."""
    x, y, x_test, y_test = mnist(folder, FASHION)
    keras.utils.set_random_seed(0)
    inputs = keras.Input((28, 28, 1))
    h = keras.layers.Conv2D(24, 3, padding="same", use_bias=False)(inputs)
    h = keras.layers.ReLU()(keras.layers.BatchNormalization()(h))
    for width, stride in ((24, 1), (48, 2), (48, 1), (96, 2), (96, 1)):
        entry = h
        h = keras.layers.Conv2D(4 * entry.shape[-1], 1, use_bias=False)(h)
        h = keras.layers.ReLU()(keras.layers.BatchNormalization()(h))
        h = keras.layers.DepthwiseConv2D(3, stride, padding="same", use_bias=False)(h)
        h = keras.layers.ReLU()(keras.layers.BatchNormalization()(h))
        h = keras.layers.Conv2D(width, 1, use_bias=False)(h)
        h = keras.layers.BatchNormalization()(h)
        if h.shape == entry.shape:
            h = keras.layers.Add()([h, entry])
    h = keras.layers.GlobalAveragePooling2D()(h)
    model = keras.Model(inputs, keras.layers.Dense(10)(h))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(2e-3), loss, metrics=["accuracy"])
    model.fit(x[..., None], y, batch_size=128, epochs=2, verbose=2)
    few = x[:512, ..., None]

    def evaluate(name, small):
        if name != "dense":
            small = tfprune.recalibrate(small, few)
        small.compile(loss=loss, metrics=["accuracy"])
        return small.evaluate(x_test[..., None], y_test, batch_size=500, verbose=0)[1]

    return model, (few, y[:512]), evaluate


def main():
    """Measures, prints the table, writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="*", default=MODELS)
    parser.add_argument("--sizes", nargs="*", type=int, default=[160])
    parser.add_argument("--runtimes", nargs="*", default=["litert", "onnx"])
    parser.add_argument("--fashion", type=Path, help="the folder of the IDX files")
    default = Path(__file__).parent / "results" / "latency_budget.json"
    parser.add_argument("--out", type=Path, default=default)
    arguments = parser.parse_args()
    rows = []
    if arguments.fashion:
        model, data, evaluate = fashion_network(arguments.fashion)
        network = Network(model, "taylor", data)
        for runtime in arguments.runtimes:
            rows += measured(network, runtime, "small, Fashion-MNIST", 28, evaluate)
    for size in arguments.sizes:
        for name in arguments.models:
            keras.utils.set_random_seed(0)
            made = getattr(keras.applications, name)(weights=None, input_shape=(size, size, 3))
            network = Network(made, "magnitude")
            for runtime in arguments.runtimes:
                rows += measured(network, runtime, name, size)
                write(arguments.out, rows)
            keras.backend.clear_session()
            gc.collect()
    write(arguments.out, rows)
    show(rows)


def write(path, rows):
    """Writes the rows, those of the file kept that are of other networks, sizes or runtimes."""

    def place(row):
        return tuple(row[name] for name in ("network", "size", "runtime"))

    new, old = {place(row) for row in rows}, []
    if path.exists():
        old = [row for row in json.loads(path.read_text())["rows"] if place(row) not in new]
    versions = {name: version(name) for name in ("litert", "onnx")}
    where = {"machine": platform.machine(), "cores": os.cpu_count(), "versions": versions}
    path.write_text(
        json.dumps({**where, "fraction": FRACTION, "rows": old + rows}, indent=1) + "\n"
    )


def show(rows):
    """Prints the table."""
    table = Table("network", "runtime", "by", "ms", "latency", "MACs", "speed by MACs")
    table.add_column("importance")
    table.add_column("accuracy")
    for row in rows:
        numbers = ("ms", "latency", "macs", "speed_by_macs", "importance", "accuracy")
        cells = ["" if row[name] is None else f"{row[name]:.3f}" for name in numbers]
        table.add_row(f"{row['network']} {row['size']}", row["runtime"], row["by"], *cells)
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
