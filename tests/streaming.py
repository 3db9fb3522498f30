"""Calls every public function that takes data on a dataset larger than what it may hold.

python -m tests.streaming OUT: what `tests/measuring/test_streaming.py` starts.
"""

import functools
import json
import math
import resource
import sys
import tempfile
from pathlib import Path

import keras
import tensorflow as tf

import tfprune
from tests.blocks.models import randomise
from tfprune.optimizers import gradient_noise

BATCHES, BATCH, SHAPE = 24, 16, (4096, 128)
"""32 MB a batch."""


def data(labels=True):
    """Batches that are made as they are read, and do not say how many there are."""

    def batch(number):
        x = tf.random.stateless_normal((BATCH, 1, SHAPE[1]), [0, number])
        x = tf.broadcast_to(x, (BATCH, *SHAPE)) + 0.0
        y = tf.random.stateless_uniform((BATCH,), [1, number], 0, 3, "int32")
        return (x, y) if labels else x

    batches = tf.data.Dataset.range(BATCHES).filter(lambda _: True)
    return batches.map(batch, num_parallel_calls=1)


def make_model():
    """A small network behind a mean over almost all of its inputs, with a residual block."""
    inputs = keras.Input(SHAPE)
    x = keras.layers.GlobalAveragePooling1D(name="pool")(inputs)
    x = keras.layers.Dense(8, name="stem")(x)
    x = keras.layers.BatchNormalization(name="norm")(x)
    for place in range(2):
        y = keras.layers.Dense(8, "relu", name=f"wide_{place}")(x)
        y = keras.layers.Dense(8, name=f"narrow_{place}")(y)
        x = keras.layers.Add(name=f"add_{place}")([x, y])
    outputs = keras.layers.Dense(3, "softmax", name="classes")(x)
    model = randomise(keras.Model(inputs, outputs))
    loss = "sparse_categorical_crossentropy"
    model.compile(keras.optimizers.SGD(0.01), loss, metrics=["accuracy"])
    return model


def pruned(model):
    """A masked copy with fewer units."""
    masked = tfprune.prunable(model)
    tfprune.prune_units(masked, 0.4, exclude=["stem"])
    return masked


def calls(model):
    """For each public function by name, functions that call it."""
    new = tfprune.prunable
    units = ("taylor", "taylor_activation", "activation_variance", "layerwise_obs")
    weights = ("second_order", "grasp", "wanda", "sparsegpt", tfprune.criteria.OBC(rounds=2))
    layers = {"only": ["wide_0", "narrow_0"]}
    small = functools.cache(lambda: tfprune.strip(pruned(model)))

    def exported():
        return tfprune.export(small(), Path(tempfile.mkdtemp()) / "small.keras", format="keras")

    return {
        "prune_units": [
            lambda name=name: tfprune.prune_units(new(model), 0.4, name, data=data())
            for name in units
        ],
        "prune_weights": [
            lambda name=name: tfprune.prune_weights(new(model), 0.4, name, data=data(), **layers)
            for name in weights
        ],
        "freeze_weights": [
            lambda: tfprune.freeze_weights(new(model), 0.4, "gradient", data=data())
        ],
        "recalibrate": [lambda: tfprune.recalibrate(model, data())],
        "compensate": [lambda: tfprune.compensate(pruned(model), model, data())],
        "reconstruct": [lambda: tfprune.reconstruct(pruned(model), model, data())],
        "distill": [
            lambda: tfprune.distill(small(), model, data(), verbose=0),
            lambda: tfprune.distill(small(), model, data(labels=False), verbose=0),
        ],
        "prune": [lambda: tfprune.prune(model, 0.3, data(), criterion="taylor")],
        "pareto": [lambda: tfprune.pareto(model, data(), remaining=[0.6], criterion="l2")],
        "sensitivity": [lambda: tfprune.sensitivity(model, data(), "accuracy", fractions=[0.5])],
        "prune_blocks": [
            lambda: tfprune.prune_blocks(model, 1, data=data()),
            lambda: tfprune.prune_blocks(model, 1, "loss", data=data()),
        ],
        "quantize_aware": [lambda: tfprune.quantize_aware(model, data())],
        "gradient_noise": [lambda: gradient_noise(model, data())],
        "strip": [lambda: tfprune.strip(pruned(model), data=data())],
        "compare": [lambda: tfprune.compare(model, small(), data(), batch_sizes=())],
        "compare_exports": [
            lambda: tfprune.compare_exports(small(), exported(), data(), batch_sizes=())
        ],
    }


def megabytes():
    """The most memory that this process held so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def size_in_megabytes():
    """How large the data is."""
    return BATCHES * BATCH * math.prod(SHAPE) * 4 / 2**20


def main(out):
    """Writes by how much the most memory that was held has grown in each call."""
    keras.utils.set_random_seed(0)
    model = make_model()
    model.evaluate(data(), verbose=0)  # what one batch takes
    found = {}
    for name, functions in calls(model).items():
        for number, function in enumerate(functions):
            before = megabytes()
            function()
            found[f"{name} {number}"] = megabytes() - before
    Path(out).write_text(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
