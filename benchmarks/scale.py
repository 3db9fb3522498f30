"""How cost grows: processor time and peak memory of each call against the size of a model.

Two series of models of dense layers: the same eight layers from 1 to 350 million parameters, and
layers of 64 units from 10 to 1,000 of them. Each model has a process of its own, in which a small
one passes through all calls first, so that nothing that is done once counts. Then in turn
`prunable` copies the model, `explain` lists its units, `prune_units` masks half of them, `strip`
removes them, with its check, and `export` writes a SavedModel of what is left. Keras's own build of
the model is timed beside them.

Cost is fitted as size^exponent: by least squares over all sizes, and between the two largest, where
what every call costs whatever the size matters least. The first should be at most 1.1; the second
tells if it would rise further, as far as the noise of two points allows. Memory is the
growth of the process while a call runs, with what it returns.

    python benchmarks/scale.py [--fast] [--out FILE]
"""

import argparse
import gc
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf
from _memory import forget_largest, largest_so_far
from rich.console import Console
from rich.table import Table

import tfprune

BOUND = 1.1
LAYERS, UNITS = 8, 64
SERIES = {
    "parameters": (1_000_000, 4_000_000, 20_000_000, 90_000_000, 350_000_000),
    "layers": (10, 32, 100, 320, 1000),
}
FAST = {"parameters": (1_000_000, 4_000_000), "layers": (10, 32)}
CALLS = ("build", "prunable", "explain", "prune_units", "strip", "export")
sys.setrecursionlimit(20_000)  # Keras makes the graph of a model by recursion, layer by layer
LEAST = {"seconds": 1e-3, "megabytes": 1.0}  # what is less is not told from 0


def build(series, size):
    """A Functional model of dense layers."""
    if series == "parameters":
        layers, units = LAYERS, round((size / LAYERS) ** 0.5)
    else:
        layers, units = size, UNITS
    tensor = inputs = keras.Input((units,))
    for _ in range(layers):
        tensor = keras.layers.Dense(units, "relu")(tensor)
    return keras.Model(inputs, tensor)


def resident():
    """The present size of this process in MB."""
    status = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in status if line.startswith("VmRSS")).split()[1]) / 1024


def measured(run):
    """What a function returns, its processor time in seconds and its peak memory in MB."""
    gc.collect()
    forget_largest()
    before, start = resident(), time.process_time()
    result = run()
    seconds = time.process_time() - start
    return result, {"seconds": seconds, "megabytes": max(0.0, largest_so_far() - before)}


def costs_of(series, size):
    """The costs of each call for one model."""
    found = {}
    dense, found["build"] = measured(lambda: build(series, size))
    found["parameters"] = dense.count_params()
    masked, found["prunable"] = measured(lambda: tfprune.prunable(dense))
    _, found["explain"] = measured(lambda: tfprune.explain(masked))
    _, found["prune_units"] = measured(lambda: tfprune.prune_units(masked, 0.5))
    small, found["strip"] = measured(lambda: tfprune.strip(masked))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "small"
        _, found["export"] = measured(lambda: tfprune.export(small, path, format="saved_model"))
    return found


def costs_in_process(series, size):
    """`costs_of` in a process of its own, which returns to the system at once what it frees."""
    done = subprocess.run(
        [sys.executable, __file__, "--one", series, str(size)],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "TF_ENABLE_ONEDNN_OPTS": "0"},
    )
    return json.loads(done.stdout.splitlines()[-1])


def exponents(sizes, values, least):
    """The exponent of the size over all sizes, and between the two largest."""
    sizes, values = np.log(sizes), np.log(np.maximum(values, least))
    slope = np.polyfit(sizes, values, 1)[0]
    last = (values[-1] - values[-2]) / (sizes[-1] - sizes[-2])
    return {"fitted": float(slope), "largest": float(last)}


def fitted(series, found):
    """For each call the exponents of its time and its memory."""
    sizes = [each["parameters"] if series == "parameters" else each["size"] for each in found]
    return {
        call: {
            kind: exponents(sizes, [each[call][kind] for each in found], least)
            for kind, least in LEAST.items()
        }
        for call in CALLS
    }


def table(series, found, fits):
    rows = Table(title=f"Against the number of {series}: seconds of the processor / MB")
    rows.add_column("Call")
    for each in found:
        rows.add_column(f"{each['size']:,}")
    for column in ("time", "largest", "memory", "largest"):
        rows.add_column(f"^ {column}")
    for call in CALLS:
        cells = [f"{e[call]['seconds']:.2f} / {e[call]['megabytes']:.0f}" for e in found]
        powers = [f"{value:.2f}" for kind in LEAST for value in fits[call][kind].values()]
        rows.add_row(call, *cells, *powers)
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--fast", action="store_true", help="small models: to see that it runs")
    default = Path(__file__).parent / "results" / "scale.json"
    parser.add_argument("--out", type=Path, default=default)
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        costs_of("layers", 3)
        print(json.dumps(costs_of(arguments.one[0], int(arguments.one[1]))))
        return

    console = Console(width=150)
    series = FAST if arguments.fast else SERIES
    costs, fits = {}, {}
    for name, sizes in series.items():
        costs[name] = []
        for size in sizes:
            with console.status(f"{size:,} {name}"):
                costs[name].append({"size": size, **costs_in_process(name, size)})
        fits[name] = fitted(name, costs[name])
        console.print(table(name, costs[name], fits[name]))
    ours = [call for call in CALLS if call != "build"]
    largest = {
        kind: {
            at: max(fit[call][kind][at] for fit in fits.values() for call in ours)
            for at in ("fitted", "largest")
        }
        for kind in LEAST
    }
    versions = {"tensorflow": tf.__version__, "keras": keras.__version__}
    content = {
        "machine": {"python": platform.python_version(), "processors": os.cpu_count(), **versions},
        "bound": BOUND,
        "largest_exponent": largest,
        "holds": {kind: found["fitted"] <= BOUND for kind, found in largest.items()},
        "exponents": fits,
        "costs": costs,
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(content, indent=2) + "\n")
    console.print(f"Largest exponents: {largest}; <= {BOUND:g}. Written to {arguments.out}")


if __name__ == "__main__":
    main()
