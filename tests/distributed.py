"""Trains one small model on one device, on two replicas or in two processes; writes its masks.

python tests/distributed.py CASE OUT: what `tests/test_distribution.py` starts.
"""

import sys

import keras
import numpy as np
import tensorflow as tf
from tfprune.unit_regularizers import L0

import tfprune
from tfprune import layers, schedules
from tfprune.callbacks import (
    DynamicSurgery,
    FreezeWeights,
    PruneUnits,
    PruneWeights,
    RegularizeUnits,
    Rewire,
    StraightThrough,
)
from tfprune.masks.setting import masked_layers

STEPS, BATCH = 8, 16
SCHEDULE = schedules.PolynomialDecay(0.1, 0.7, 1, 7, frequency=2)
X = np.random.default_rng(0).normal(size=(BATCH, 6)).astype("float32")
Y = np.random.default_rng(1).normal(size=(BATCH, 2)).astype("float32")


def make_callback(kind):
    rewired = schedules.Constant(0.5, begin_step=0, end_step=7, frequency=2)
    return {
        "units": lambda: PruneUnits(SCHEDULE),
        "weights": lambda: PruneWeights(SCHEDULE, distribution="global"),
        "rewired": lambda: Rewire(rewired, grow="gradient", seed=0),
        "surgery": lambda: DynamicSurgery(SCHEDULE, frequency=1, end_step=7),
        "gates": lambda: RegularizeUnits(L0(12.0, optimizer=keras.optimizers.SGD(30.0), seed=0)),
        "straight": lambda: StraightThrough(SCHEDULE),
        "frozen": lambda: FreezeWeights(SCHEDULE, "magnitude"),
    }[kind]()


def make_model():
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(12, activation="relu"),
            layers.Dense(10, activation="relu"),
            layers.Dense(2),
        ]
    )


def mirrored():
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    assert strategy.num_replicas_in_sync == 2
    return strategy


def fit(strategy, callback):
    """`fit`, with all examples in each step."""
    with strategy.scope():
        model = make_model()
        model.compile(keras.optimizers.SGD(0.1, momentum=0.9), "mse", jit_compile=False)
    model.fit(X, Y, batch_size=BATCH, epochs=STEPS, shuffle=False, verbose=0, callbacks=[callback])
    return model


def fit_and_shrink(strategy):
    """The same, with units that go for real."""
    with strategy.scope():
        model = make_model()
        model.compile(keras.optimizers.SGD(0.1, momentum=0.9), "mse", jit_compile=False)
    result = tfprune.fit_and_shrink(
        model,
        X,
        Y,
        stages={2: 0.25, 4: 0.5},
        masked=True,
        batch_size=BATCH,
        epochs=STEPS,
        shuffle=False,
        verbose=0,
    )
    return result.model


def loop(strategy, callback, x, y):
    """A loop of one's own, in which each process has a share of the batch."""
    with strategy.scope():
        model = make_model()
        optimizer = keras.optimizers.SGD(0.1, momentum=0.9)
        optimizer.build(model.trainable_variables)

    def replica_step(x, y):
        with tf.GradientTape() as tape:
            error = keras.ops.square(model(x, training=True) - y)
            loss = keras.ops.sum(error) / (BATCH * y.shape[-1])  # of the whole batch
        variables = model.trainable_variables
        gradients = tape.gradient(loss, [variable.value for variable in variables])
        optimizer.apply_gradients(zip(gradients, variables, strict=True))

    @tf.function
    def step(x, y):
        strategy.run(replica_step, args=(x, y))

    callback.after_step(model, optimizer)  # for schedules that begin at step 0
    for _ in range(STEPS):
        step(x, y)
        callback.after_step(model, optimizer)
    return model


def arrays_of(model, strategy):
    """Every mask and weight, on each replica of this process."""
    found = {}
    for number, layer in enumerate(masked_layers(model)):
        for name, mask in layer.masks_by_name.items():
            kinds = {
                kind: getattr(mask, kind) for kind in ("weight", "trainable", "frozen", "live")
            }
            for kind, variable in kinds.items():
                for replica, value in enumerate(
                    strategy.experimental_local_results(variable.value)
                ):
                    found[f"{kind} {number} {name} {replica}"] = value.numpy()
    return found


def main(case, kind, out):
    if case == "workers":
        strategy = tf.distribute.MultiWorkerMirroredStrategy()
        workers, index = strategy.num_replicas_in_sync, strategy.cluster_resolver.task_id
        assert workers == 2
        model = loop(strategy, make_callback(kind), X[index::workers], Y[index::workers])
    elif case == "loop":
        strategy = tf.distribute.get_strategy()
        model = loop(strategy, make_callback(kind), X, Y)
    else:
        strategy = mirrored() if case == "mirrored" else tf.distribute.get_strategy()
        is_shrunk = kind == "shrink"
        model = fit_and_shrink(strategy) if is_shrunk else fit(strategy, make_callback(kind))
    np.savez(out, **arrays_of(model, strategy))


if __name__ == "__main__":
    main(*sys.argv[1:])
