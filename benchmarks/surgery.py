"""What edits of a network cost: over Keras's own build of the same model.

In turns within one run Keras builds the model, and edits of it are made: a layer in its middle gets
fewer units, or more, also split off old ones; an identity is put in, a layer taken out, a window
made larger; and a plan of them all is carried out at once. An edit gives a new model, which Keras
has to build, so 1 is what can be reached. A plan builds it up to three times: what is put in,
sizes, what is taken out.

    python benchmarks/surgery.py [--fast] [--out FILE]
"""

import argparse
import gc
import json
import os
import platform
from dataclasses import asdict
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf
from _timing import interleaved, ratio
from rich.console import Console
from rich.table import Table

import tfprune
from tfprune import surgery
from tfprune.surgery import Split, by

ARCHITECTURES = ("ResNet50", "DenseNet121")
SIZE = 64


def build(name):
    make = getattr(keras.applications, name)
    return make(weights=None, input_shape=(SIZE, SIZE, 3))


def edits(model):
    """Functions that each edit the model and give the new one."""
    convolutions = [layer for layer in model.layers if isinstance(layer, keras.layers.Conv2D)]
    middle = convolutions[len(convolutions) // 2]
    wide = next(layer for layer in convolutions if layer.kernel_size == (3, 3))
    last = model.layers[-2].name
    norms = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    units = by(-middle.filters // 4)

    def identity():
        return keras.layers.Dense(model.get_layer(last).output.shape[-1], name="added")

    def several():
        plan = surgery.edit(model)
        plan.resize({middle: units})
        plan.insert(last, identity())
        plan.remove(norms[-1])
        plan.resize_kernel(wide, 5)
        return plan.model

    return {
        "shrink": lambda: surgery.resize(model, {middle: units}),
        "grow": lambda: surgery.resize(model, {middle: by(8)}),
        "split": lambda: surgery.resize(model, {middle: by(8)}, split=Split()),
        "insert": lambda: surgery.insert(model, last, identity()),
        "remove": lambda: surgery.remove(model, norms[-1]),
        "window": lambda: surgery.resize_kernel(model, wide, 5),
        "plan of four": several,
        "solving alone": lambda: solved(model, middle, units),
    }


def solved(model, layer, units):
    """What a plan does before it makes anything: analysis, utilities, the integer program."""
    plan = surgery.edit(model)
    plan.resize({layer: units})
    return plan.sizes


def work(name, rounds):
    """Times of a build and of edits, and their ratios."""
    model = build(name)
    runs = edits(model)
    times = interleaved(
        {"build": lambda: build(name), **runs}, rounds=rounds, repeats=1, prepare=gc.collect
    )
    return {
        "parameters": int(model.count_params()),
        "seconds": {key: float(np.median(value)) for key, value in times.items()},
        "over_build": {key: ratio(times[key], times["build"]) for key in times if key != "build"},
    }


def table(results):
    rows = Table(title="Edits over Keras's own build: median of pairs (quartiles)")
    rows.add_column("Edit")
    for name, result in results.items():
        rows.add_column(f"{name} ({result['seconds']['build']:.2f} s)")
    for key in next(iter(results.values()))["over_build"]:
        rows.add_row(key, *(str(result["over_build"][key]) for result in results.values()))
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--fast", action="store_true", help="few rounds: to see that it runs")
    parser.add_argument("--rounds", type=int, default=7)
    default = Path(__file__).parent / "results" / "surgery.json"
    parser.add_argument("--out", type=Path, default=default)
    arguments = parser.parse_args()
    rounds = 2 if arguments.fast else arguments.rounds
    content = {
        "machine": {
            "python": platform.python_version(),
            "processors": os.cpu_count(),
            "tensorflow": tf.__version__,
            "keras": keras.__version__,
            "tfprune": tfprune.__version__,
        },
        "rounds": rounds,
        "input_shape": [SIZE, SIZE, 3],
        "work": {},
    }
    console = Console(width=110)
    for name in ARCHITECTURES:
        with console.status(name):
            content["work"][name] = work(name, rounds)
        keras.backend.clear_session()
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(content, indent=2, default=asdict) + "\n")
    console.print(table(content["work"]))
    console.print(f"Written to {arguments.out}")


if __name__ == "__main__":
    main()
