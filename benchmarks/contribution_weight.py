"""The weight that `ActivationContribution` gives to new values, by what its choice of units costs.

XOR: 2,000 networks 2-32-1 are trained at once, each on its own, by Adam for 50 steps of the four
examples. Of those that learned it (loss below 1e-3), the share whose loss changes by at most 1e-5
without the 16 hidden units of the lowest averages. Digits: 20 networks 64-64-10, trained for 15
epochs in batches of 32; the test accuracy with the 32, 16 and 8 hidden units of the highest
averages alone, without training after it.

    python benchmarks/contribution_weight.py [--out FILE]
"""

import argparse
import json
import os
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from rich.console import Console
from rich.table import Table
from sklearn.datasets import load_digits

import tfprune
from tfprune.criteria import ActivationContribution

WEIGHTS = (0.01, 0.05, 0.1, 0.3, 0.5, 0.95, 1.0)
KEPT = (32, 16, 8)


def networks(count, inputs, units, outputs, activation=None):
    """Networks of one hidden layer side by side, and the two layers of all of them."""
    hidden = tfprune.layers.Dense(count * units, activation="relu", name="hidden")
    out = keras.layers.EinsumDense(
        "bsu,suo->bso", (count, outputs), activation=activation, bias_axes="so"
    )
    model = keras.Sequential(
        [keras.Input((inputs,)), hidden, keras.layers.Reshape((count, units)), out]
    )
    draw = np.random.default_rng(0)
    for layer, fans in ((hidden, inputs + units), (out, units + outputs)):
        limit = np.sqrt(6 / fans)
        layer.kernel.assign(draw.uniform(-limit, limit, layer.kernel.shape))
    return model, hidden, out


def attached(weight, layer):
    criterion = ActivationContribution(weight=weight)
    criterion.attach(layer)
    return criterion


def outputs_with(x, hidden, out, kept):
    """The outputs before the activation, of some hidden units of each network alone."""
    kernel, bias = hidden.get_weights()
    activations = np.maximum(x @ kernel + bias, 0).reshape(len(x), *kept.shape)
    weights, biases = out.get_weights()
    return np.einsum("bsu,suo->bso", activations * kept, weights) + biases


def best(scores, count):
    kept = np.zeros(scores.shape)
    np.put_along_axis(kept, np.argsort(-scores, axis=1)[:, :count], 1.0, 1)
    return kept


def xor(weight, count=2000):
    keras.utils.set_random_seed(0)
    model, hidden, out = networks(count, 2, 32, 1, "sigmoid")
    criterion = attached(weight, hidden)
    model.compile(keras.optimizers.Adam(0.1, epsilon=1e-7 / count), "mse")
    x = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], "float32")
    y = np.array([0, 1, 1, 0], "float32").reshape(4, 1, 1)
    for _ in range(50):
        model.train_on_batch(x, np.repeat(y, count, 1))

    def losses(kept):
        logits = outputs_with(x, hidden, out, kept)
        return ((1 / (1 + np.exp(-logits)) - y) ** 2).mean(axis=(0, 2))

    before = losses(np.ones((count, 32)))
    after = losses(best(criterion(hidden).reshape(count, 32), 16))
    learned = before < 1e-3
    return int(learned.sum()), float((np.abs(after - before)[learned] <= 1e-5).mean())


def digits(weight, count=20):
    keras.utils.set_random_seed(0)
    x, y = load_digits(return_X_y=True)
    x, y = (x / 16).astype("float32"), np.repeat(y[:, None], count, 1)
    model, hidden, out = networks(count, 64, 64, 10)
    criterion = attached(weight, hidden)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(1e-3), loss)
    model.fit(x[:1257], y[:1257], batch_size=32, epochs=15, verbose=0)
    scores = criterion(hidden).reshape(count, 64)
    found = []
    for kept in KEPT:
        logits = outputs_with(x[1257:], hidden, out, best(scores, kept))
        found.append(float((logits.argmax(-1) == y[1257:]).mean()))
    return found


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, default="benchmarks/results/contribution_weight.json")
    out = parser.parse_args().out
    results = {}
    table = Table("weight", "XOR: within 1e-5", *(f"digits: {kept} units" for kept in KEPT))
    for weight in WEIGHTS:
        learned, share = xor(weight)
        accuracies = digits(weight)
        results[weight] = {"learned": learned, "within_1e-5": share, "digits": accuracies}
        table.add_row(f"{weight:g}", f"{share:.1%}", *(f"{each:.1%}" for each in accuracies))
    Console().print(table)
    out.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
