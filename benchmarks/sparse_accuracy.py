"""How accurate sparse networks are: algorithms and criteria over sparsities, several seeds each.

An MLP and a CNN on scikit-learn's digits. Each contender trains for the same number of steps from
the same initial weights: gradual magnitude pruning, one-shot in the middle of training, SET and
RigL from the start, SNIP and random at initialisation, and gradual magnitude pruning by
tensorflow-model-optimization (tfmot) with the same schedule on the same network in tf_keras.

    python benchmarks/sparse_accuracy.py [--fast] [--out FILE] [--plot FILE]
"""

import argparse
import gc
import json
import os
import platform
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf
from _digits import digits
from rich.console import Console
from rich.progress import track
from rich.table import Table

import tfprune
from tfprune import callbacks, schedules

SPARSITIES = (0.5, 0.8, 0.9, 0.95, 0.98, 0.99)
SEEDS = 5
EPOCHS = 20
BATCH = 32
EVERY = 20
NETWORKS = {
    "MLP 64-128-64-10": lambda layers: [
        layers.Flatten(),
        layers.Dense(128, activation="relu"),
        layers.Dense(64, activation="relu"),
        layers.Dense(10),
    ],
    "CNN 32-64-10": lambda layers: [
        layers.Conv2D(32, 3, activation="relu"),
        layers.Conv2D(64, 3, activation="relu"),
        layers.GlobalAveragePooling2D(),
        layers.Dense(10),
    ],
}


X, Y, X_TEST, Y_TEST = digits()
STEPS = EPOCHS * -(-len(X) // BATCH)
BEGIN, END = STEPS // 8, STEPS * 5 // 8


def gradual(model, sparsity):
    """Magnitude, on the cubic schedule."""
    return callbacks.PruneWeights(schedules.PolynomialDecay(0, sparsity, BEGIN, END, 3, EVERY))


def one_shot(model, sparsity):
    """Magnitude, all at once."""
    return callbacks.PruneWeights(schedules.OneShot(sparsity, BEGIN))


def sparse_training(grow):
    """Sparse from the start, with connections that move."""

    def begin(model, sparsity):
        schedule = schedules.Constant(sparsity, end_step=END, frequency=EVERY)
        return callbacks.Rewire(schedule, grow=grow, seed=0)

    return begin


def at_initialisation(criterion):
    """Once, before training."""

    def begin(model, sparsity):
        tfprune.prune_weights(model, sparsity, criterion, distribution="global", data=(X, Y))

    return begin


METHODS = {
    "gradual": gradual,
    "one-shot": one_shot,
    "SET": sparse_training("random"),
    "RigL": sparse_training("gradient"),
    "SNIP": at_initialisation("gradient"),
    "random": at_initialisation(tfprune.criteria.Random(seed=0)),
}


def accuracy_of(network, method, sparsity, seed):
    """Test accuracy and sparsity of the kernels after training with one of our methods."""
    keras.backend.clear_session()
    gc.collect()  # models are cycles, and hold much memory
    keras.utils.set_random_seed(seed)
    stack = NETWORKS[network](tfprune.layers)
    model = keras.Sequential([keras.Input(X.shape[1:]), *stack])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(2e-3), loss, metrics=["accuracy"])
    callback = METHODS[method](model, sparsity) if method != "dense" else None
    given = [callback] if callback is not None else []
    model.fit(X, Y, BATCH, epochs=EPOCHS, verbose=0, callbacks=given)
    return model.evaluate(X_TEST, Y_TEST, verbose=0)[1], zeros(model)


def accuracy_of_tfmot(network, sparsity, seed):
    """The same with tfmot's gradual magnitude pruning of the same network in tf_keras."""
    import tf_keras  # after keras: it changes which Keras `tf.keras` is
    from tensorflow_model_optimization.sparsity import keras as tfmot

    tf_keras.backend.clear_session()
    tf_keras.utils.set_random_seed(seed)
    inputs = tf_keras.layers.Input(X.shape[1:])
    model = tf_keras.Sequential([inputs, *NETWORKS[network](tf_keras.layers)])
    schedule = tfmot.PolynomialDecay(0, sparsity, BEGIN, END, 3, EVERY)
    model = tfmot.prune_low_magnitude(model, pruning_schedule=schedule)
    loss = tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(tf_keras.optimizers.Adam(2e-3), loss, metrics=["accuracy"])
    model.fit(X, Y, BATCH, epochs=EPOCHS, verbose=0, callbacks=[tfmot.UpdatePruningStep()])
    accuracy = model.evaluate(X_TEST, Y_TEST, verbose=0)[1]
    return accuracy, zeros(tfmot.strip_pruning(model))


def zeros(model):
    """The share of zeros in the kernels."""
    kernels = [np.asarray(w) for w in model.get_weights() if np.ndim(w) > 1]
    return float(sum((k == 0).sum() for k in kernels) / sum(k.size for k in kernels))


def measure(sparsities, seeds):
    """For each network and method a list of accuracies and one of sparsities, seed by seed."""
    runs = [
        (network, method, sparsity, seed)
        for seed in range(seeds)  # seeds outermost: all contenders take turns
        for network in NETWORKS
        for sparsity in sparsities
        for method in [*METHODS, "tfmot gradual"]
    ]
    runs += [(network, "dense", 0.0, seed) for network in NETWORKS for seed in range(seeds)]
    found = {}
    for network, method, sparsity, seed in track(runs, "Training", console=Console(stderr=True)):
        if method == "tfmot gradual":
            accuracy, reached = accuracy_of_tfmot(network, sparsity, seed)
        else:
            accuracy, reached = accuracy_of(network, method, sparsity, seed)
        cell = found.setdefault(network, {}).setdefault(method, {}).setdefault(str(sparsity), {})
        cell.setdefault("accuracy", []).append(float(accuracy))
        cell.setdefault("zeros", []).append(reached)
    for methods in found.values():
        for cells in methods.values():
            for cell in cells.values():
                cell["mean"] = float(np.mean(cell["accuracy"]))
                cell["deviation"] = float(np.std(cell["accuracy"], ddof=1)) if seeds > 1 else 0.0
    return found


def verdict(ours, theirs):
    """Whether our mean is below theirs by more than twice the error of the difference."""
    a, b = np.array(ours["accuracy"]), np.array(theirs["accuracy"])
    differences = a - b
    error = differences.std(ddof=1) / len(differences) ** 0.5 if len(differences) > 1 else np.inf
    return "worse" if differences.mean() < -2 * error else "not worse"


def print_tables(found, sparsities):
    console = Console(width=110)
    for network, methods in found.items():
        dense = methods["dense"]["0.0"]
        table = Table(
            title=f"{network}: test accuracy in %, mean (deviation); dense "
            f"{100 * dense['mean']:.1f} ({100 * dense['deviation']:.1f})"
        )
        table.add_column("Method")
        for sparsity in sparsities:
            table.add_column(f"{sparsity:.0%}", justify="right")
        for method, cells in methods.items():
            if method != "dense":
                by_sparsity = [cells[str(sparsity)] for sparsity in sparsities]
                table.add_row(
                    method,
                    *(f"{100 * c['mean']:.1f} ({100 * c['deviation']:.1f})" for c in by_sparsity),
                )
        pairs = [(methods["gradual"][str(s)], methods["tfmot gradual"][str(s)]) for s in sparsities]
        table.add_section()
        table.add_row("gradual beside tfmot", *(verdict(*pair) for pair in pairs))
        console.print(table)


def plot(found, sparsities, path):
    """Accuracy over sparsity, a panel for each network."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5 * len(found), 4), layout="constrained")
    for axes, (network, methods) in zip(
        figure.subplots(1, len(found), squeeze=False)[0], found.items(), strict=True
    ):
        for method, cells in methods.items():
            if method == "dense":
                axes.axhline(cells["0.0"]["mean"], color="gray", linestyle=":", label="dense")
                continue
            means = [cells[str(sparsity)]["mean"] for sparsity in sparsities]
            deviations = [cells[str(sparsity)]["deviation"] for sparsity in sparsities]
            axes.errorbar(range(len(sparsities)), means, deviations, label=method, capsize=2)
        axes.set_xticks(range(len(sparsities)), [f"{sparsity:.0%}" for sparsity in sparsities])
        axes.set(title=network, xlabel="sparsity", ylabel="test accuracy")
    axes.legend()
    figure.savefig(path)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--fast", action="store_true", help="one seed: to see that it runs")
    results = Path(__file__).parent / "results"
    parser.add_argument("--out", type=Path, default=results / "sparse_accuracy.json")
    parser.add_argument("--plot", type=Path, default=results / "sparse_accuracy.png")
    arguments = parser.parse_args()
    sparsities, seeds = ((0.9,), 1) if arguments.fast else (SPARSITIES, SEEDS)
    found = measure(sparsities, seeds)
    print_tables(found, sparsities)
    plot(found, sparsities, arguments.plot)
    versions = {
        "python": platform.python_version(),
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
        "tfprune": tfprune.__version__,
    }
    setup = {"epochs": EPOCHS, "batch": BATCH, "steps": STEPS, "begin": BEGIN, "end": END}
    result = {"machine": versions, "setup": setup, "networks": found}
    arguments.out.write_text(json.dumps(result, indent=2) + "\n")
    print(f"Written to {arguments.out} and {arguments.plot}")


if __name__ == "__main__":
    main()
