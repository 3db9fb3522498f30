"""The digits experiment as one program, beside `fit` one training after another.

First both train the same networks on the same batches, by `fit` with masks through the public API
of tfprune, and the weights are compared. Then the time of a training is measured side by side.
`--full` runs the whole experiment, 1,265 trainings, and writes its accuracies.

    python benchmarks/digits_sweep.py [--fast] [--full] [--out FILE] [--results FILE]
"""

import argparse
import json
import os
import platform
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf
from _timing import interleaved, ratio
from rich.console import Console
from rich.table import Table

import tfprune
from tfprune.experiments import digits, stacked

HERE = Path(__file__).parent
BOUND = 20  # how many times as long `fit` must take
CONTENDERS = {
    "fit": {},
    "fit, 100 steps an execution": {"steps_per_execution": 100},
    "fit, jit": {"jit_compile": True},
}
PAIRS = [("prune", "magnitude"), ("freeze", "preconditioned_gradient"), ("freeze", "random")]


@keras.saving.register_keras_serializable("digits_sweep")
class Network(keras.Sequential):
    """The network of drop-in layers, with the step of `stacked.Update` under `fit`."""

    def prepare(self, update, step):
        """Makes the estimate C, a variable for each weight."""
        self.rule = update
        dtype = self.weights[0].dtype
        self.t = tf.Variable(float(step), trainable=False, dtype=dtype)
        self.covariance = [tf.Variable(tf.ones(w.shape, dtype)) for w in self.weights]

    def train_step(self, data):
        """One step; the last example of the batch is the one whose gradient is g_1."""
        x, y = data
        weights = self.trainable_variables
        with tf.GradientTape(persistent=True) as tape:
            loss = self.compute_loss(x[:-1], y[:-1], self(x[:-1], training=True))
            of_one = self.compute_loss(x[-1:], y[-1:], self(x[-1:], training=True))
        moves = tape.gradient(loss, weights)
        if self.rule.rule == "preconditioned":
            scale = 2 * self.rule.batch_size / self.rule.dataset_size
            kappa = self.rule.kappa / self.t
            ones = tape.gradient(of_one, weights)
            for c, g_1, g_s in zip(self.covariance, ones, moves, strict=True):
                c.assign((1 - kappa) * c + kappa * tf.square(g_1 - g_s))
            moves = [scale * g / c for g, c in zip(moves, self.covariance, strict=True)]
        self.t.assign_add(1.0)
        self.optimizer.apply(moves, weights)
        return {"loss": loss}


def fit_model(update, step, dtype="float32", **compile_arguments):
    """A compiled `Network` of the experiment's size."""
    model = Network(
        [
            keras.Input((digits.load().x_train.shape[1],), dtype=dtype),
            tfprune.layers.Dense(32, activation="tanh", name="hidden", dtype=dtype),
            tfprune.layers.Dense(10, name="digit", dtype=dtype),
        ],
    )
    model.compile(
        keras.optimizers.SGD(update.rate),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True, dtype=dtype),
        **compile_arguments,
    )
    model.prepare(update, step)
    return model


def load_into(model, networks):
    """Puts one replica into the model: weights, the estimate C, masks and the step."""
    for layer in model.layers:
        for name in layer.masked_weights:
            tfprune.set_masks(model, layer, name, trainable=True, frozen=False)
    model.set_weights([w[0] for w in networks.weights])
    for variable, values in zip(model.covariance, networks.covariance, strict=True):
        variable.assign(values[0])
    model.t.assign(float(networks.step))
    names = [(layer, name) for layer in model.layers for name in ("kernel", "bias")]
    for (layer, name), mask, weight in zip(names, networks.masks, networks.weights, strict=True):
        kept = mask[0] | (weight[0] != 0)  # what is masked and 0 has been pruned
        tfprune.set_masks(model, layer, name, trainable=kept, frozen=~mask[0] & kept)


def fit(model, batches):
    """Trains by `fit`."""
    data = digits.load()
    size = batches.shape[1]
    x = data.x_train.astype(model.layers[0].dtype)
    rows = (x[batches.ravel()], data.y_train[batches.ravel()].astype("int32"))
    rows = tf.data.Dataset.from_tensor_slices(rows).batch(size).prefetch(8)
    model.fit(rows, epochs=1, verbose=0)


def prepared(protocol, pairs, fractions):
    """Networks at the intervention, one a pair and fraction; the batches that come after it."""
    data = digits.load()
    update = protocol.update(len(data.x_train))
    network, batches = digits.start(protocol, 0)
    before, after = np.split(batches, [protocol.steps_before])
    network = stacked.train(network, data.x_train, data.y_train, before, update)
    made = [
        digits.intervene(network, *pair, fraction, [0, 0, 0, place])
        for place, (pair, fraction) in enumerate((a, f) for a in pairs for f in fractions)
    ]
    return made, after, update


@dataclass(frozen=True)
class Difference:
    """How far the weights of the two are apart after so many steps."""

    rule: str
    dtype: str
    steps: int
    moved: float  # the largest change of a weight since the intervention
    apart: float  # the largest difference of a weight
    relative: float  # the latter over the root mean square of weights


def differences(rule, dtype, steps):
    """The same networks trained as one program and by `fit`; masks are those of interventions."""
    rate = float(np.float32(0.01))  # Keras keeps learning rates in single precision
    protocol = digits.Protocol(steps_after=max(steps), rule=rule, rate=rate)
    made, after, update = prepared(protocol, PAIRS, [0.5])
    made = [in_precision(network, dtype) for network in made]
    data = digits.load()
    model = fit_model(update, protocol.first_step, dtype, steps_per_execution=100)
    found = []
    for count in steps:
        together = stacked.train(
            stacked.together(made), data.x_train, data.y_train, after[:count], update
        )
        moved, apart, sizes = [], [], []
        for place, network in enumerate(made):
            load_into(model, network)
            fit(model, after[:count])
            for ours, theirs, first, mask in zip(
                together.weights, model.get_weights(), network.weights, network.masks, strict=True
            ):
                ours = ours[place]
                assert (ours == first[0])[~mask[0]].all()  # masked elements have not moved
                assert (theirs == first[0])[~mask[0]].all()
                moved.append(np.abs(ours - first[0]).max())
                apart.append(np.abs(ours - theirs).max())
                sizes.append(np.sqrt(np.mean(np.square(ours))))
        relative = max(a / s for a, s in zip(apart, sizes, strict=True))
        numbers = map(float, (max(moved), max(apart), relative))
        found.append(Difference(rule, dtype, count, *numbers))
    return found


def in_precision(network, dtype):
    """The same network, from now on in another precision."""
    arrays = ([a.astype(dtype) for a in group] for group in (network.weights, network.covariance))
    return stacked.Networks(*arrays, network.masks, network.step)


def times(rounds, protocol):
    """Seconds a training: of the program for one repeat, all sweeps; of `fit` for one training."""
    made, after, update = prepared(protocol, [("freeze", "gradient")], [0.5])
    models = {
        name: fit_model(update, protocol.steps_before, **arguments)
        for name, arguments in CONTENDERS.items()
    }
    start, batches = digits.start(protocol, 0)

    def one_by_fit(model):
        load_into(model, start)
        fit(model, batches[: protocol.steps_before])
        load_into(model, made[0])
        fit(model, after)

    one_repeat = digits.Protocol(**{**vars(protocol), "repeats": 1})
    contenders = {"one program": lambda: digits.sweep(one_repeat, verbose=0)}
    contenders |= {name: lambda m=model: one_by_fit(m) for name, model in models.items()}
    found = interleaved(contenders, rounds=rounds, repeats=1)
    trainings = sum(len(digits.fractions_of(action)) for action, _ in digits.SWEEPS)
    found["one program"] = found["one program"] / trainings
    return found


def report(console, found, measured):
    """Tables of both."""
    table = Table(title="The same trainings as one program and by `fit`: weights")
    numbers = ("steps", "moved at most", "apart at most", "over root mean square")
    for column in ("rule", "precision", *numbers):
        table.add_column(column, justify="right" if column in numbers else "left")
    for row in found:
        numbers = (f"{row.moved:.3g}", f"{row.apart:.1e}", f"{row.relative:.1e}")
        table.add_row(row.rule, row.dtype, f"{row.steps:,}", *numbers)
    console.print(table)
    table = Table(title="Seconds for a training of 3,200 steps (median), over the one program's")
    for column in ("", "seconds", "times as long (quartiles)"):
        table.add_column(column, justify="left" if not column else "right")
    program = measured["one program"]
    for name, seconds in measured.items():
        times_as_long = "" if seconds is program else str(ratio(seconds, program))
        table.add_row(name, f"{np.median(seconds):.3f}", times_as_long)
    console.print(table)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--fast", action="store_true", help="few steps, one round")
    parser.add_argument("--full", action="store_true", help="run the experiment instead")
    parser.add_argument("--out", default=HERE / "results" / "digits_sweep.json", type=Path)
    parser.add_argument(
        "--results", default=HERE / "results" / "digits_sweep_results.json", type=Path
    )
    arguments = parser.parse_args()
    if arguments.full:
        digits.sweep().save(arguments.results)
        return
    few, many = [100], [100] if arguments.fast else [100, 1000, 3000]
    found = [
        *differences("sgd", "float32", many),
        *differences("preconditioned", "float32", few),
        *differences("preconditioned", "float64", many),  # single precision is not enough: where C
        # is small, steps are large, and differences of a rounding grow from step to step
    ]
    short = {"steps_before": 20, "steps_after": 100} if arguments.fast else {}
    measured = times(1 if arguments.fast else 3, digits.Protocol(**short))
    report(Console(), found, measured)
    content = {
        "machine": f"{platform.machine()}, {os.cpu_count()} CPUs",
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
        "weights": [vars(row) for row in found],
        "seconds": {name: np.round(values, 4).tolist() for name, values in measured.items()},
        "times_as_long": {
            name: vars(ratio(values, measured["one program"]))
            for name, values in measured.items()
            if name != "one program"
        },
        "bound": BOUND,
    }
    if not arguments.fast:
        arguments.out.write_text(json.dumps(content, indent=1) + "\n")
    failures = [row for row in found if row.relative > 1e-4]
    if failures:
        raise SystemExit(f"The two do not compute the same: {failures}")
    if not arguments.fast and ratio(measured["fit"], measured["one program"]).median < BOUND:
        raise SystemExit(f"`fit` takes less than {BOUND} times as long.")


if __name__ == "__main__":
    main()
