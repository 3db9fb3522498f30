"""What units are worth: accuracy over the MACs that remain, for each criterion, and the speed-up.

A CNN and a residual network on scikit-learn's digits, several seeds. From each trained network,
units are pruned to a budget of multiply-accumulates in one shot, ranked over all layers by one
criterion. Accuracy is measured with the statistics of batch norms taken anew from the training
images, and once more after two epochs of training. Random choice is the floor. A masked model
computes what the stripped one does, so accuracies are measured on masked ones; for the speed-up
the models are stripped, and timed in turns with the dense one.

    python benchmarks/unit_pruning.py [--fast] [--out FILE] [--plot FILE]
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
from tfprune.coupling.costs import costs
from tfprune.masks.setting import masked_layers, set_masks
from tfprune.measuring.latency import latency
from tfprune.rebuild.convert import without_masks

SEEDS = 5
EPOCHS, MORE_EPOCHS, BATCH = 16, 2, 32
RATE, LOWER_RATE = 2e-3, 2e-4
REMAINING = (0.7, 0.5, 0.3, 0.15)
CRITERIA = (
    "random",
    "l1",
    "magnitude",
    "bn_scale",
    "fpgm",
    "taylor",
    "taylor_activation",
    "second_order",
    "apoz",
    "activation_variance",
)
LATENCY_BATCH = 256


X, Y, X_TEST, Y_TEST = digits()
BATCHES = tf.data.Dataset.from_tensor_slices((X, Y)).batch(200)


def convolution(x, filters, *, activation=True):
    """A convolution with its norm, and mostly a ReLU."""
    x = keras.layers.Conv2D(filters, 3, padding="same", use_bias=False)(x)
    x = keras.layers.BatchNormalization(momentum=0.9)(x)
    return keras.layers.ReLU()(x) if activation else x


def cnn(x):
    """Two stages of two convolutions."""
    x = convolution(convolution(x, 32), 32)
    x = keras.layers.MaxPooling2D()(x)
    return convolution(convolution(x, 64), 64)


def resnet(x):
    """A stem and two stages of two residual blocks."""
    x = convolution(x, 32)
    for filters in (32, 64):
        if filters != 32:
            x = convolution(keras.layers.MaxPooling2D()(x), filters)
        for _ in range(2):
            inner = convolution(convolution(x, filters), filters, activation=False)
            x = keras.layers.ReLU()(keras.layers.Add()([x, inner]))
    return x


NETWORKS = {"CNN": cnn, "ResNet-like": resnet}


def trained(network, seed):
    """A dense network after training, made of layers that carry masks."""
    keras.utils.set_random_seed(seed)
    inputs = keras.Input(X.shape[1:])
    x = keras.layers.GlobalAveragePooling2D()(NETWORKS[network](inputs))
    model = keras.Model(inputs, keras.layers.Dense(10)(x))
    model = tfprune.prunable(model)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(RATE), loss, metrics=["accuracy"])
    model.fit(X, Y, BATCH, epochs=EPOCHS, verbose=0)
    model.optimizer.learning_rate = LOWER_RATE
    return model


class Dense:
    """A trained network, and the way back to it."""

    def __init__(self, network, seed):
        self.model = trained(network, seed)
        self.weights = self.model.get_weights()
        slots = map(keras.ops.convert_to_numpy, self.model.optimizer.variables)
        self.slots = [value.copy() for value in slots]

    def restore(self):
        """Takes all masks off and puts the trained weights and slots back."""
        for layer in masked_layers(self.model):
            for name in layer.trainable_masks:
                set_masks(self.model, layer, name, trainable=True)
        self.model.set_weights(self.weights)
        for variable, value in zip(self.model.optimizer.variables, self.slots, strict=True):
            variable.assign(value)

    def accuracy(self):
        """The share of test images that are told rightly."""
        return float(self.model.evaluate(X_TEST, Y_TEST, batch_size=200, verbose=0)[1])

    def recalibrate(self):
        """Statistics of the batch norms over all training images, in one pass and in place."""
        layers = self.model.layers
        norms = [each for each in layers if isinstance(each, keras.layers.BatchNormalization)]
        for norm in norms:
            norm.momentum = 0.0
        self.model(X, training=True)
        for norm in norms:
            norm.momentum = 0.9

    def pruned(self, criterion, remaining, seed):
        """Prunes the units to a share of the MACs."""
        self.restore()
        options = {"seed": seed} if criterion == "random" else {}
        tfprune.prune_units(
            self.model,
            tfprune.budgets.MACs(remaining),
            tfprune.criteria.units.get(criterion, normalize="mean", **options),
            selection="global",
            data=BATCHES,
        )
        return self.model


def macs(model):
    """Multiply-accumulates for one image."""
    return sum(call.macs for call in costs(model))


def measure_accuracy(criteria, remaining, seeds):
    """Accuracies by network, criterion and share of MACs, seed by seed; the dense ones too."""
    found = {}
    runs = [(seed, network) for seed in range(seeds) for network in NETWORKS]
    for seed, network in track(runs, "Training and pruning", console=Console(stderr=True)):
        keras.backend.clear_session()
        gc.collect()
        dense = Dense(network, seed)
        of_network = found.setdefault(network, {"dense": [], "criteria": {}})
        of_network["dense"].append(dense.accuracy())
        for criterion in criteria:
            for share in remaining:
                cell = of_network["criteria"].setdefault(criterion, {}).setdefault(str(share), {})
                dense.pruned(criterion, share, seed)
                dense.recalibrate()
                cell.setdefault("pruned", []).append(dense.accuracy())
                dense.model.fit(X, Y, BATCH, epochs=MORE_EPOCHS, verbose=0)
                cell.setdefault("trained on", []).append(dense.accuracy())
    return found


def measure_speed(remaining):
    """By network, for each share of MACs that of the latency, in turns with the dense model."""
    found = {}
    for network in NETWORKS:
        keras.backend.clear_session()
        gc.collect()
        dense = Dense(network, 0)
        models = [without_masks(dense.model)]
        models += [tfprune.strip(dense.pruned("taylor", share, 0)) for share in remaining]
        seconds = latency(models, LATENCY_BATCH)
        found[network] = [
            {
                "remaining": share,
                "macs": macs(model) / macs(models[0]),
                "latency": each / seconds[0],
            }
            for share, model, each in zip(remaining, models[1:], seconds[1:], strict=True)
        ]
    return found


def print_tables(accuracy, speed, remaining):
    console = Console(width=110)
    for network, found in accuracy.items():
        for when in ("pruned", "trained on"):
            dense = 100 * np.mean(found["dense"])
            table = Table(title=f"{network}, {when}: accuracy in %, mean (deviation); {dense:.1f}")
            table.add_column("MACs that remain")
            for share in remaining:
                table.add_column(f"{share:.0%}", justify="right")
            for criterion, cells in found["criteria"].items():
                values = [100 * np.array(cells[str(share)][when]) for share in remaining]
                deviations = [np.std(v, ddof=1) if len(v) > 1 else 0.0 for v in values]
                row = zip(values, deviations, strict=True)
                table.add_row(criterion, *(f"{np.mean(v):.1f} ({d:.1f})" for v, d in row))
            console.print(table)
    table = Table(title=f"Latency over the dense model's, batches of {LATENCY_BATCH}")
    table.add_column("MACs that remain")
    for share in remaining:
        table.add_column(f"{share:.0%}", justify="right")
    for network, rows in speed.items():
        table.add_row(network, *(f"{row['latency']:.2f}" for row in rows))
    console.print(table)


def plot(accuracy, speed, remaining, path):
    """Accuracy over MACs for each criterion, before and after training on; latency over MACs."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 7), layout="constrained")
    panels = figure.subplots(2, 3)
    for row, (network, found) in zip(panels, accuracy.items(), strict=True):
        for axes, when in zip(row, ("pruned", "trained on"), strict=False):
            axes.axhline(np.mean(found["dense"]), color="gray", linestyle=":", label="dense")
            for place, (criterion, cells) in enumerate(found["criteria"].items()):
                means = [np.mean(cells[str(share)][when]) for share in remaining]
                style = {"color": "black", "linestyle": "--"} if criterion == "random" else {}
                marker = "osv^Dx+*<>"[place % 10]
                axes.plot(remaining, means, marker=marker, label=criterion, **style)
            axes.set(title=f"{network}, {when}", xlabel="MACs that remain", ylabel="accuracy")
        places = [(r["macs"], r["latency"]) for r in speed[network]]
        row[2].plot([0, 1], [0, 1], color="gray", linestyle=":", label="as the MACs")
        row[2].plot(*zip(*places, strict=True), marker="o", label="measured")
        row[2].set(title=f"{network}: latency", xlabel="MACs that remain", ylabel="over dense")
        row[2].legend()
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=6)
    figure.savefig(path, dpi=80)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--fast", action="store_true", help="one seed: to see that it runs")
    results = Path(__file__).parent / "results"
    parser.add_argument("--out", type=Path, default=results / "unit_pruning.json")
    parser.add_argument("--plot", type=Path, default=results / "unit_pruning.png")
    arguments = parser.parse_args()
    seeds = 1 if arguments.fast else SEEDS
    criteria = CRITERIA[:3] if arguments.fast else CRITERIA
    accuracy = measure_accuracy(criteria, REMAINING, seeds)
    speed = measure_speed(REMAINING)
    print_tables(accuracy, speed, REMAINING)
    plot(accuracy, speed, REMAINING, arguments.plot)
    machine = {
        "python": platform.python_version(),
        "processors": os.cpu_count(),
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
        "tfprune": tfprune.__version__,
    }
    setup = {"epochs": EPOCHS, "more_epochs": MORE_EPOCHS, "batch": BATCH, "seeds": seeds}
    result = {"machine": machine, "setup": setup, "accuracy": accuracy, "latency": speed}
    arguments.out.write_text(json.dumps(result, indent=2) + "\n")
    print(f"Written to {arguments.out} and {arguments.plot}")


if __name__ == "__main__":
    main()
