"""What shrinking while training saves: wall time and accuracy against masks alone.

A CNN (five 3x3 convolutions of 32, 64, 64, 128 and 128 filters with batch norms, 28 million MACs,
batches of 64) learns scikit-learn's digits, scaled from 8x8 to 32x32 pixels. In four stages, one at
the beginning of each of the epochs 1 to 4, it is pruned to a fifth of its MACs; the rest of the
epochs recover. Both trainings prune at the same epochs by the same criterion; one masks, the other
rebuilds. Wall time is that of the whole call: trial, rebuilding, tracing and validation are in it.
Both are run in turn for each seed, every other time in the other order. The processor's time
beside it tells what else the machine was doing. The ratio falls with the number of epochs: each
stage costs a rebuild and a trace, and the first epochs are those of the large models.

    python benchmarks/shrink_while_training.py [--fast] [--seeds N] [--epochs N] [--out FILE]
"""

import argparse
import json
import os
import platform
import time
from dataclasses import asdict
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf
from _timing import ratio
from rich.console import Console
from rich.table import Table
from sklearn.datasets import load_digits

import tfprune
from tfprune.coupling.costs import costs

MACS = 0.2
BOUND = 0.6
BLOCKS = ((32,), (64, 64), (128, 128))
BATCH = 64


def data():
    """Training and validation: images `(n, 32, 32, 1)` and labels."""
    images, labels = load_digits(return_X_y=True)
    images = images.reshape(-1, 8, 8, 1).astype("float32") / 16
    images = tf.image.resize(images, (32, 32)).numpy()
    order = np.random.default_rng(0).permutation(len(images))
    train, test = order[:1408], order[1408:]
    return (images[train], labels[train]), (images[test], labels[test])


def cnn(seed):
    keras.utils.set_random_seed(seed)
    layers = [keras.Input((32, 32, 1))]
    for block in BLOCKS:
        for filters in block:
            layers += [
                keras.layers.Conv2D(filters, 3, padding="same", use_bias=False),
                keras.layers.BatchNormalization(momentum=0.9),
                keras.layers.ReLU(),
            ]
        layers.append(keras.layers.MaxPooling2D())
    layers += [keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(10)]
    model = keras.Sequential(layers)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(2e-3), loss, metrics=["accuracy"])
    return model


def macs(model):
    return sum(call.macs for call in costs(model))


def stages_for(share):
    """Four stages of rising fractions of units, the last of which leaves `share` of the MACs."""
    whole = macs(cnn(0))
    low, high = 0, 128  # of 128, the finest step at which any layer changes
    while high - low > 1:
        middle = (low + high) // 2
        model = tfprune.prunable(cnn(0))
        tfprune.prune_units(model, middle / 128)
        is_enough = macs(tfprune.strip(model, check=False)) <= share * whole
        low, high = (low, middle) if is_enough else (middle, high)
    return {stage: high / 128 * stage / 4 for stage in (1, 2, 3, 4)}


class PruneAt(keras.callbacks.Callback):
    """Masks at the same epochs, and nothing rebuilt."""

    def __init__(self, stages):
        super().__init__()
        self.stages = stages

    def on_epoch_begin(self, epoch, logs=None):
        if epoch in self.stages:
            tfprune.prune_units(self.model, self.stages[epoch])


class Clock:
    """Seconds on the wall and of the processor since it was made."""

    def __init__(self):
        self.start = time.perf_counter(), time.process_time()

    def read(self):
        wall, processor = self.start
        return {
            "seconds": time.perf_counter() - wall,
            "processor_seconds": time.process_time() - processor,
        }


def with_masks(seed, stages, arguments):
    model = tfprune.prunable(cnn(seed))
    clock = Clock()
    history = model.fit(**arguments, callbacks=[PruneAt(stages)])
    return {**clock.read(), "accuracy": history.history["val_accuracy"][-1]}


def shrinking(seed, stages, arguments):
    model = cnn(seed)
    clock = Clock()
    result = tfprune.fit_and_shrink(model, **arguments, stages=stages)
    return {
        **clock.read(),
        "accuracy": result.history.history["val_accuracy"][-1],
        "macs": macs(result.model) / macs(model),
        "stages": [
            {
                "epoch": stage.epoch,
                "target": stage.target,
                "macs": stage.macs.after,
                "rebuild_seconds": stage.seconds,
                "seconds_per_epoch": stage.seconds_per_epoch,
            }
            for stage in result.stages
        ],
    }


CONTENDERS = {"masks alone": with_masks, "fit_and_shrink": shrinking}


def measure(seeds, epochs, console):
    (x, y), test = data()
    arguments = {"x": x, "y": y, "validation_data": test, "batch_size": BATCH}
    arguments.update(epochs=epochs, verbose=0)
    stages = stages_for(MACS)
    found = {name: [] for name in CONTENDERS}
    for seed in range(seeds):
        names = list(CONTENDERS)[:: 1 if seed % 2 == 0 else -1]
        for name in names:
            with console.status(f"seed {seed}: {name}"):
                keras.utils.set_random_seed(seed)
                found[name].append(CONTENDERS[name](seed, stages, arguments))
            keras.backend.clear_session()
    return stages, found


def summary(found):
    def of_runs(key):
        return {name: np.array([run[key] for run in runs]) for name, runs in found.items()}

    seconds, processor, accuracy = map(of_runs, ("seconds", "processor_seconds", "accuracy"))
    times = ratio(seconds["fit_and_shrink"], seconds["masks alone"])
    return {
        "seconds": {name: float(np.median(values)) for name, values in seconds.items()},
        "processor_seconds": {name: float(np.median(v)) for name, v in processor.items()},
        "processor_ratio": ratio(processor["fit_and_shrink"], processor["masks alone"]),
        "accuracy": {
            name: {"mean": float(values.mean()), "deviation": float(values.std())}
            for name, values in accuracy.items()
        },
        "ratio": times,
        "macs": found["fit_and_shrink"][0]["macs"],
        "bound": BOUND,
        "holds": times.median <= BOUND,
    }


def tables(result, found):
    output = Table(title="The same epochs, pruned to a fifth of the MACs in four stages")
    columns = ("", "seconds", "over masks alone", "processor's", "over", "validation accuracy")
    for name in columns:
        output.add_column(name)
    for name in CONTENDERS:
        verdict = f"<= {BOUND}: {'holds' if result['holds'] else 'FAILS'}"
        is_ours = name == "fit_and_shrink"
        accuracy = result["accuracy"][name]
        output.add_row(
            name,
            f"{result['seconds'][name]:.1f}",
            f"{result['ratio']}  {verdict}" if is_ours else "1",
            f"{result['processor_seconds'][name]:.1f}",
            str(result["processor_ratio"]) if is_ours else "1",
            f"{accuracy['mean']:.4f} +- {accuracy['deviation']:.4f}",
        )
    by_stage = Table(title="Stages of fit_and_shrink, medians over seeds")
    for name in ("from epoch", "units pruned", "MACs", "rebuilt in s", "s / epoch"):
        by_stage.add_column(name)
    for same in zip(*(run["stages"] for run in found["fit_and_shrink"]), strict=True):
        first = same[0]
        by_stage.add_row(
            str(first["epoch"]),
            "none" if first["target"] is None else f"{first['target']:.2f}",
            f"{first['macs'] / 1e6:.2f} M",
            f"{np.median([stage['rebuild_seconds'] for stage in same]):.2f}",
            f"{np.median([stage['seconds_per_epoch'] for stage in same]):.2f}",
        )
    return output, by_stage


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--fast", action="store_true", help="one seed: to see that it runs")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=30)
    default = Path(__file__).parent / "results" / "shrink_while_training.json"
    parser.add_argument("--out", type=Path, default=default)
    arguments = parser.parse_args()
    seeds, epochs = (1, 6) if arguments.fast else (arguments.seeds, arguments.epochs)

    console = Console(width=120)
    stages, found = measure(seeds, epochs, console)
    result = summary(found)
    console.print(*tables(result, found))
    versions = {"tensorflow": tf.__version__, "keras": keras.__version__}
    machine = {"python": platform.python_version(), "processors": os.cpu_count(), **versions}
    content = {"machine": machine, "epochs": epochs, "stages": stages, **result, "runs": found}
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(content, indent=2, default=asdict) + "\n")
    console.print(f"Written to {arguments.out}")


if __name__ == "__main__":
    main()
