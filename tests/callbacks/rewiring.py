"""A small model, its data and `Rewire` for it, as the tests of `Rewire` share them."""

import keras
import numpy as np

from tfprune import layers
from tfprune.callbacks import Rewire
from tfprune.schedules import Constant

RNG = np.random.default_rng(0)
X = RNG.normal(size=(12, 6)).astype("float32")
Y = RNG.normal(size=(12, 5)).astype("float32")


def linear(optimizer=None, **kwargs):
    keras.utils.set_random_seed(3)
    model = keras.Sequential([keras.Input((6,)), layers.Dense(5, use_bias=False, name="d")])
    model.compile(optimizer or keras.optimizers.SGD(0.05), "mse", **kwargs)
    return model


def kernel(model, name="d"):
    return np.array(model.get_layer(name).kernel)


def kept(model, name="d", weight="kernel"):
    return np.array(model.get_layer(name).trainable_masks[weight])


def constant(sparsity=0.5, frequency=2, end_step=100):
    return Constant(sparsity, end_step=end_step, frequency=frequency)


def rigl(frequency=2, **kwargs):
    schedule = kwargs.pop("schedule", None) or constant(frequency=frequency)
    return Rewire(schedule, **{"grow": "gradient", "decay": "constant", "seed": 0, **kwargs})


def fit(model, *callbacks, epochs=1, x=X, y=Y, batch_size=12, **kwargs):
    kwargs = {"shuffle": False, "verbose": 0, **kwargs}
    return model.fit(
        x, y, epochs=epochs, batch_size=batch_size, callbacks=list(callbacks), **kwargs
    )


def step(model, callback):
    model.train_on_batch(X, Y)
    return callback.after_step(model)
