"""LeNet-300-100 and LeNet-5 on MNIST with 12, 56 and 108 times fewer parameters.

A dense network is trained. Then a masked copy is trained in two stages: in the first its
parameters, biases included, are pruned to the share, by `PruneWeights` or by `DynamicSurgery`; in
the second it settles. Both learn from the dense network's outputs and the labels, and both have the
same epochs, optimizers and rates. In all training, that of the dense network too, three of ten
batches are moved by up to one pixel. What is left are the parameters of the stripped network that
are not 0.

    python benchmarks/real/lenet_weights.py --mnist FOLDER [--seeds N] [--only TASK] [--out FILE]

The results are written after each seed, and those of other tasks in the file stay.
"""

import argparse
import gc
import json
import os
import sys
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from _data import mnist
from _lenets import error, lenet_5, lenet_300_100, soft_targets, train
from _plots import bars
from _results import RESULTS, write
from rich.console import Console
from rich.table import Table

import tfprune

NETWORKS = {
    "LeNet-300-100": {
        "make": lenet_300_100,
        "epochs": {"dense": 20, "pruning": 24, "settling": 30},
        "rates": {"dense": 1e-3, "pruning": 0.03, "settling": 2e-3},
        "sgd": {"momentum": 0.9, "nesterov": True},
    },
    "LeNet-5": {
        "make": lenet_5,
        "epochs": {"dense": 8, "pruning": 12, "settling": 16},
        "rates": {"dense": 1e-3, "pruning": 0.02, "settling": 2e-3},
        "sgd": {"momentum": 0.9, "nesterov": True, "global_clipnorm": 1.0},
    },
}
TASKS = {
    "12": ("LeNet-300-100", 12, "no loss", "Han et al. 2015"),
    "56": ("LeNet-300-100", 56, 2.0, "Guo et al. 2016"),
    "108": ("LeNet-5", 108, 0.95, "Guo et al. 2016"),
}
BATCH = 256


def every_weight(layer, weight):
    """Biases are pruned too."""
    return True


def pruning(way, factor, epochs, examples):
    """The callback of a way that prunes in the first half of some epochs."""
    steps = epochs * -(-examples // BATCH)
    schedule = tfprune.schedules.PolynomialDecay(0.0, 1 - 1 / factor, 0, steps // 2, frequency=20)
    options = {"distribution": "global", "only": every_weight}
    if way == "gradual magnitude":
        return tfprune.callbacks.PruneWeights(schedule, **options)
    return tfprune.callbacks.DynamicSurgery(schedule, end_step=3 * steps // 4, **options)


WAYS = ("dynamic surgery", "gradual magnitude")


def measure(name, tasks, seed, arrays):
    """For each task errors in %, parameters that are left and seconds, dense and sparse."""
    x, y, x_test, y_test = arrays
    plan = NETWORKS[name]
    keras.utils.set_random_seed(seed)
    start = time.perf_counter()
    dense = plan["make"]()
    labels = np.eye(10, dtype="float32")[y]
    stages = {
        stage: {
            "epochs": plan["epochs"][stage],
            "rate": plan["rates"][stage],
            "batch": BATCH,
            "shift_seed": seed,
        }
        for stage in plan["epochs"]
    }
    train(dense, x, labels, **stages["dense"])
    before = {"error": error(dense, x_test, y_test), "parameters": dense.count_params()}
    before["seconds"] = time.perf_counter() - start
    targets = soft_targets(dense, x, y)
    for task in tasks:
        found = {"dense": before}
        for way in WAYS:
            keras.utils.set_random_seed(1000 + seed)
            start = time.perf_counter()
            model = tfprune.prunable(dense)
            callback = pruning(way, TASKS[task][1], plan["epochs"]["pruning"], len(x))
            train(model, x, targets, sgd=plan["sgd"], callbacks=[callback], **stages["pruning"])
            train(model, x, targets, **stages["settling"])
            small = tfprune.strip(model)
            found[way] = {
                "error": error(small, x_test, y_test),
                "parameters": sum(int(np.count_nonzero(w)) for w in small.get_weights()),
                "seconds": time.perf_counter() - start,
            }
            print(f"{task} times, seed {seed}, {way}: {found[way]}", file=sys.stderr, flush=True)
        yield task, found


def show(results):
    """Prints means and deviations."""
    table = Table(title="Test error in %, mean (deviation)")
    for column in ("network", "times fewer", "seeds", "dense", *WAYS, "goal", "reference"):
        table.add_column(column, justify="left" if column in ("network", "reference") else "right")
    for task, (name, factor, goal, reference) in TASKS.items():
        runs = results.get(task, {}).get("runs", [])
        if runs:
            cells = [_mean([run[way]["error"] for run in runs]) for way in ("dense", *WAYS)]
            row = [name, str(factor), str(len(runs)), *cells, str(goal), reference]
            table.add_row(*row)
    Console(width=110).print(table)


def plot(results, path):
    """A bar for each task and way."""
    found = [(TASKS[task], results[task]["runs"]) for task in TASKS if task in results]
    groups = [f"{name}\n{factor} times fewer" for (name, factor, *_), _ in found]
    ways = {w: [[run[w]["error"] for run in runs] for _, runs in found] for w in ("dense", *WAYS)}
    goals = [goal if isinstance(goal, float) else None for (_, _, goal, _), _ in found]
    title = "LeNets on MNIST with fewer weights"
    bars(path, title, groups, ways, unit="test error in %", goals=goals)


def _mean(values):
    deviation = f" ({np.std(values, ddof=1):.2f})" if len(values) > 1 else ""
    return f"{np.mean(values):.2f}{deviation}"


def summary(task, runs):
    """The results of a task, with the number of its seeds, means and deviations."""
    name, factor, goal, reference = TASKS[task]
    means = {
        way: {
            "error": float(np.mean([run[way]["error"] for run in runs])),
            "deviation": float(np.std([run[way]["error"] for run in runs], ddof=len(runs) > 1)),
            "times_fewer": runs[0]["dense"]["parameters"]
            / max(run[way]["parameters"] for run in runs),
        }
        for way in ("dense", *WAYS)
    }
    told = {"network": name, "times_fewer": factor, "goal": goal, "reference": reference}
    return {**told, "seeds": len(runs), "means": means, "runs": runs}


def main():
    """Measures, prints a table, writes JSON and a plot."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mnist", type=Path, help="the folder of MNIST's IDX files")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--only", choices=TASKS, nargs="+", default=list(TASKS))
    out = RESULTS / "lenet_weights.json"
    parser.add_argument("--out", type=Path, default=out)
    arguments = parser.parse_args()
    arrays = mnist(arguments.mnist)
    is_there = arguments.out.exists()
    results = json.loads(arguments.out.read_text())["tasks"] if is_there else {}
    results = {task: found for task, found in results.items() if task not in arguments.only}
    plans = {n: {k: v for k, v in plan.items() if k != "make"} for n, plan in NETWORKS.items()}
    settings = {"networks": plans, "batch": BATCH, "moved_batches": 0.3}
    runs = {task: [] for task in arguments.only}
    for seed in range(arguments.seeds):
        for name in NETWORKS:
            keras.backend.clear_session()
            gc.collect()
            tasks = [task for task in arguments.only if TASKS[task][0] == name]
            for task, found in measure(name, tasks, seed, arrays) if tasks else []:
                runs[task].append(found)
                results[task] = summary(task, runs[task])
                content = {"settings": settings, "tasks": results}
                write(arguments.out, content)
    show(results)
    plot(results, arguments.out.with_suffix(".png"))


if __name__ == "__main__":
    main()
