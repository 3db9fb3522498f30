"""A training with all kinds of states, for tests that break it off and let it go on."""

import sys

import keras
import numpy as np
import tensorflow as tf

from tfprune import layers
from tfprune.callbacks import BackupAndRestore, Capture, PruneUnits, PruneWeights, Rewire
from tfprune.schedules import Constant, PolynomialDecay

RNG = np.random.default_rng(0)
X = RNG.normal(size=(24, 6)).astype("float32")
Y = RNG.normal(size=(24, 2)).astype("float32")
STEPS = 6
EPOCHS = 5


class Noise(keras.layers.Layer):
    """Draws from the generator that Keras has for all that have none."""

    def call(self, inputs, training=False):
        return inputs + 0.1 * keras.random.normal((6,)) if training else inputs


class Batches(keras.utils.PyDataset):
    """Batches in an order that NumPy's own generator draws after each epoch."""

    def __init__(self):
        super().__init__()
        self.order = np.arange(24)

    def __len__(self):
        return STEPS

    def __getitem__(self, index):
        rows = self.order[4 * index : 4 * index + 4]
        return X[rows], Y[rows]

    def on_epoch_end(self):
        self.order = np.random.default_rng([7, *self.order]).permutation(24)


class Jitter(keras.callbacks.Callback):
    """Moves the learning rate at random, and counts epochs, in hooks that must not run twice."""

    def __init__(self):
        super().__init__()
        self.rng = np.random.default_rng(3)
        self.seen = []

    def on_epoch_begin(self, epoch, logs=None):
        self.seen.append(epoch)
        rate = self.model.optimizer.learning_rate
        rate.assign(rate * (0.9 + 0.1 * self.rng.random()) * (0.95 + 0.1 * np.random.rand()))


def dataset():
    return tf.data.Dataset.from_tensor_slices((X, Y))


def unknown_length():
    def rows():
        yield from zip(X, Y, strict=True)

    specs = tuple(tf.TensorSpec((n,), tf.float32) for n in (6, 2))
    return tf.data.Dataset.from_generator(rows, output_signature=specs).batch(4)


DATA = {
    "arrays": lambda: {"x": X, "y": Y, "batch_size": 4},
    "shuffled": lambda: {"x": dataset().shuffle(24, seed=5).batch(4)},
    "repeated": lambda: {
        "x": dataset().shuffle(24, seed=5).batch(5).repeat(), "steps_per_epoch": STEPS
    },
    "unknown": lambda: {"x": unknown_length()},
    "sequence": lambda: {"x": Batches()},
}  # fmt: skip
PRUNING = {
    "gradual": lambda: PruneWeights(PolynomialDecay(0.1, 0.8, 0, 25, frequency=3)),
    "movement": lambda: PruneWeights(PolynomialDecay(0.1, 0.8, 1, 25, frequency=3), "movement"),
    "rigl": lambda: Rewire(Constant(0.6, end_step=25, frequency=4), grow="gradient", seed=0),
    "units": lambda: PruneUnits(0.5, regularizer="growing"),
    "measured": lambda: PruneUnits(0.5, "activation_contribution"),
}


def network(units=8):
    return keras.Sequential(
        [
            keras.Input((6,)),
            Noise(),
            layers.Dense(units, activation="relu", name="first"),
            keras.layers.Dropout(0.3),
            keras.layers.BatchNormalization(),
            layers.Dense(units, activation="tanh", name="second"),
            keras.layers.GaussianNoise(0.1),
            layers.Dense(2, name="last"),
        ]
    )


def train(folder, data="arrays", pruning="gradual", save_freq="epoch", place=3, extra=(), units=8):
    """Trains from the beginning, or goes on; gives all that there is in the end by name."""
    keras.backend.clear_session()  # names and generators as in a new process
    keras.utils.set_random_seed(3)
    tf.config.experimental.enable_op_determinism()
    model = network(units)
    model.compile(keras.optimizers.Adam(0.01, use_ema=True), "mse", metrics=["mae"])
    stop = keras.callbacks.EarlyStopping("loss", patience=4, min_delta=2.0)
    slower = keras.callbacks.ReduceLROnPlateau("loss", patience=1, factor=0.7)
    captured, jitter = Capture([0, 8, 9]), Jitter()
    callbacks = [PRUNING[pruning](), jitter, stop, slower, captured]
    callbacks.insert(place, BackupAndRestore(folder, save_freq=save_freq))
    given = {"epochs": EPOCHS, "verbose": 0, **DATA[data]()}
    history = model.fit(callbacks=[*callbacks, *extra], **given)
    found = {f"weight {i}": np.array(v) for i, v in enumerate(model.variables)}
    found |= {f"slot {i}": np.array(v) for i, v in enumerate(model.optimizer.variables)}
    for layer in (model.get_layer(name) for name in ("first", "second", "last")):
        found |= {f"{layer.name} {n}": np.array(m) for n, m in layer.trainable_masks.items()}
    found |= {f"logs {name}": np.array(values) for name, values in history.history.items()}
    for step, snapshot in captured.snapshots.items():
        found |= {f"step {step} {n}": array for n, array in snapshot.weights.items()}
    found["epochs"] = np.array(history.epoch)
    found["seen"] = np.array(jitter.seen)
    found["waits"] = np.array([stop.wait, slower.wait, stop.best_epoch])
    found["drawn"] = np.append(np.random.rand(3), jitter.rng.random())
    found["unseeded"] = np.array(keras.random.normal((2,)))
    return found


def same(one, other):
    """Compares what two trainings gave, bit for bit."""
    assert sorted(one) == sorted(other)
    assert len(one) > 30
    for name, array in one.items():
        np.testing.assert_array_equal(array, other[name], err_msg=name)


if __name__ == "__main__":
    path, out, *options = sys.argv[1:]
    begun = keras.callbacks.LambdaCallback(
        on_train_batch_begin=lambda batch, logs: print(batch, flush=True)
    )
    result = train(path, *options[:2], int(options[2]), extra=[begun], units=int(options[3]))
    np.savez(out, **result)
