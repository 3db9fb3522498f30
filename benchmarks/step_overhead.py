"""What masks cost: a training step of a masked model over the stock model's.

Masked layers over Keras's, with and without jit, and tensorflow-model-optimization (tfmot) over
tf_keras, all interleaved in one run: an MLP (weight-bound, the worst case), a small CNN, an LSTM.
Half of the weights are pruned before the clock starts. `StraightThrough` chooses a tenth of the
weights anew at each step. Contenders with callbacks call them each
step, as `fit` does.

    python benchmarks/step_overhead.py [--fast] [--out FILE]
"""

import argparse
import json
import os
import platform
from dataclasses import asdict, dataclass
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf
from _timing import interleaved, ratio
from rich.console import Console
from rich.table import Table

import tfprune

NEVER = 10**9
UPDATE_EVERY = 100
STEPS_A_TURN = 20  # short, so that a pair meets the same disturbances


@dataclass(frozen=True)
class Case:
    """A network, the shape of its inputs, and the ratio that must not be exceeded without jit."""

    name: str
    build: callable  # layers -> list of layers
    input_shape: tuple
    bound: float | None


CASES = [
    Case(
        "MLP 784-1024-1024-10",
        lambda layers: [
            layers.Dense(1024, activation="relu"),
            layers.Dense(1024, activation="relu"),
            layers.Dense(10),
        ],
        (784,),
        bound=1.15,
    ),
    Case(
        "CNN 28x28, 32-64-10",
        lambda layers: [
            layers.Conv2D(32, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Conv2D(64, 3, activation="relu"),
            layers.MaxPooling2D(),
            layers.Flatten(),
            layers.Dense(10),
        ],
        (28, 28, 1),
        bound=1.05,
    ),
    Case(
        "LSTM(128), 28 steps",
        lambda layers: [layers.LSTM(128), layers.Dense(10)],
        (28, 28),
        bound=None,
    ),
]

PAIRS = {
    "tfprune": ("masked", "keras"),
    "tfprune, jit": ("masked jit", "keras jit"),
    "tfprune, update every 100": ("masked update", "keras"),
    "tfprune, StraightThrough": ("straight-through", "keras"),
    "tfprune, StraightThrough, jit": ("straight-through jit", "keras jit"),
    "tfmot": ("tfmot", "tf_keras"),
    "tfmot, update every 100": ("tfmot update", "tf_keras"),
}


def batches(shape):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(32 * 32, *shape)).astype("float32")
    y = rng.integers(0, 10, 32 * 32)
    return iter(tf.data.Dataset.from_tensor_slices((x, y)).batch(32).cache().repeat())


def keras_step(case, layers, *, jit=False, callback=None, sparsity=0.5):
    """A function that trains one step; `callback` prunes as it goes, from `sparsity` on."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input(case.input_shape), *case.build(layers)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(1e-4), loss, jit_compile=jit)
    if isinstance(callback, tfprune.callbacks.StraightThrough):
        callback.after_step(model)
    elif layers is tfprune.layers:
        tfprune.prune_weights(model, sparsity)
    model.make_train_function()
    data = batches(case.input_shape)

    def step():
        model.train_function(data)
        if callback:
            callback.after_step(model)

    return step


def tf_keras_step(case, schedule=None):
    """The same with tf_keras; `schedule` takes tfmot's module and returns one of its schedules."""
    import tf_keras  # after keras: it changes which Keras `tf.keras` is
    from tensorflow_model_optimization.sparsity import keras as tfmot

    tf_keras.utils.set_random_seed(0)
    inputs = tf_keras.layers.Input(case.input_shape)
    model = tf_keras.Sequential([inputs, *case.build(tf_keras.layers)])
    if schedule:
        model = tfmot.prune_low_magnitude(model, pruning_schedule=schedule(tfmot))
    loss = tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(tf_keras.optimizers.Adam(1e-4), loss)
    train = model.make_train_function()
    data = batches(case.input_shape)
    if not schedule:
        return lambda: train(data)

    callback = tfmot.UpdatePruningStep()
    callback.set_model(model)
    callback.on_train_begin()

    def step():
        callback.on_train_batch_begin(0)
        train(data)

    return step


def contenders(case):
    rising = tfprune.schedules.PolynomialDecay(0.5, 0.9, 0, 10_000, frequency=UPDATE_EVERY)
    update = tfprune.callbacks.PruneWeights(rising)
    through, through_jit = (tfprune.callbacks.StraightThrough(0.9) for _ in range(2))

    steps = {
        "keras": keras_step(case, keras.layers),
        "masked": keras_step(case, tfprune.layers),
        "masked update": keras_step(case, tfprune.layers, callback=update),
        "straight-through": keras_step(case, tfprune.layers, callback=through),
        "keras jit": keras_step(case, keras.layers, jit=True),
        "masked jit": keras_step(case, tfprune.layers, jit=True),
        "straight-through jit": keras_step(case, tfprune.layers, jit=True, callback=through_jit),
    }
    try:
        steps["tf_keras"] = tf_keras_step(case)
    except ImportError:
        return steps
    steps["tfmot"] = tf_keras_step(
        case, lambda tfmot: tfmot.ConstantSparsity(0.5, begin_step=NEVER)
    )
    steps["tfmot update"] = tf_keras_step(
        case,
        lambda tfmot: tfmot.PolynomialDecay(0.5, 0.9, 0, 10_000, frequency=UPDATE_EVERY),
    )
    return steps


def measure(case, rounds):
    times = interleaved(contenders(case), rounds=rounds, repeats=STEPS_A_TURN, warm_up=2)
    period = UPDATE_EVERY // STEPS_A_TURN
    ratios = {
        label: ratio(times[ours], times[stock], turns=period if "update" in label else 1)
        for label, (ours, stock) in PAIRS.items()
        if ours in times
    }
    return {
        "milliseconds": {name: float(np.median(t) * 1e3) for name, t in times.items()},
        "ratios": ratios,
        "bound": case.bound,
        "holds": holds(ratios, case.bound),
    }


def holds(ratios, bound):
    """Whether masks cost no more than the bound and no more than tfmot's, but for noise."""
    limits = [limit for limit in (bound, ratios.get("tfmot")) if limit is not None]
    return not any(ratios["tfprune"].exceeds(limit) for limit in limits)


def table(results):
    columns = [label for label in PAIRS if any(label in r["ratios"] for r in results.values())]
    output = Table(title="A training step over the stock one: median of pairs (quartiles)")
    for name in ("Model", "Keras ms", *columns, "Bound"):
        output.add_column(name)
    for name, result in results.items():
        cells = [str(result["ratios"][label]) for label in columns]
        bound = "below tfmot" if result["bound"] is None else f"<= {result['bound']}"
        verdict = f"{bound}: {'holds' if result['holds'] else 'FAILS'}"
        output.add_row(name, f"{result['milliseconds']['keras']:.2f}", *cells, verdict)
    return output


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--fast", action="store_true", help="few rounds: to see that it runs")
    parser.add_argument("--rounds", type=int, default=100)
    default = Path(__file__).parent / "results" / "step_overhead.json"
    parser.add_argument("--out", type=Path, default=default)
    arguments = parser.parse_args()
    rounds = 10 if arguments.fast else arguments.rounds

    console = Console(width=150)
    results = {}
    for case in CASES:
        with console.status(f"{case.name}: {rounds} rounds of {STEPS_A_TURN} steps each"):
            results[case.name] = measure(case, rounds)
    console.print(table(results))
    versions = {"tensorflow": tf.__version__, "keras": keras.__version__}
    machine = {"python": platform.python_version(), "processors": os.cpu_count(), **versions}
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    content = {"machine": machine, "rounds": rounds, "cases": results}
    arguments.out.write_text(json.dumps(content, indent=2, default=asdict) + "\n")
    console.print(f"Written to {arguments.out}")


if __name__ == "__main__":
    main()
