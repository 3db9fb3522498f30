"""Models whose units get gates, and gates in NumPy."""

import keras
import numpy as np
import tensorflow as tf

import tfprune

RNG = np.random.default_rng(0)
X = RNG.normal(size=(24, 3)).astype("float32")
Y = RNG.normal(size=(24, 2)).astype("float32")


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def gate(log_alpha, uniform=None):
    """Equations 10 to 13 of the paper, with its constants."""
    if uniform is None:
        s = sigmoid(log_alpha)
    else:
        s = sigmoid((np.log(uniform) - np.log(1 - uniform) + log_alpha) / (2 / 3))
    return np.clip(s * 1.2 - 0.1, 0, 1)


def is_open(log_alpha):
    return sigmoid(log_alpha - 2 / 3 * np.log(0.1 / 1.1))


def drawn(seed, step, count):
    bits = tf.random.stateless_uniform([count], [seed, step], None, None, "uint32").numpy()
    return ((bits >> 8) + 0.5) / 2.0**24


def mlp(optimizer=None, units=4, **kwargs):
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((3,)),
            keras.layers.Dense(units, activation="tanh", name="first"),
            keras.layers.Dense(2, name="last"),
        ]
    )
    model = tfprune.prunable(model)
    model.compile(optimizer or keras.optimizers.SGD(0.1), "mse", **kwargs)
    return model


def by_hand(model, gates, x=X):
    w, b, v, c = [np.asarray(value, "float64") for value in model.get_weights()]
    return np.tanh(x @ w + b) * gates @ v + c


def fit(model, *callbacks, epochs=2, **kwargs):
    options = {"batch_size": 4, "epochs": epochs, "shuffle": False, "verbose": 0, **kwargs}
    return model.fit(X, Y, callbacks=list(callbacks), **options)


def residual(**kwargs):
    """Units of `stem` and `branch` are one by the sum; `norm` goes along; `deep` has its own."""
    keras.utils.set_random_seed(1)
    inputs = keras.Input((6, 2))
    x = keras.layers.Conv1D(5, 3, padding="same", name="stem")(inputs)
    x = keras.layers.BatchNormalization(name="norm")(x)
    y = keras.layers.Conv1D(5, 1, activation="relu", name="branch")(x)
    x = keras.layers.Add()([x, y])
    x = keras.layers.DepthwiseConv1D(3, name="depthwise")(x)
    x = keras.layers.Conv1D(4, 3, activation="relu", name="deep")(keras.layers.ReLU()(x))
    x = keras.layers.Flatten()(x)
    model = tfprune.prunable(keras.Model(inputs, keras.layers.Dense(3, name="out")(x)))
    for weight in model.weights:
        value = RNG.normal(size=weight.shape)
        weight.assign(abs(value) if weight.name == "moving_variance" else value)
    model.compile(keras.optimizers.Adam(0.01), "mse", **kwargs)
    return model


IMAGES = np.random.default_rng(1).normal(size=(16, 6, 2)).astype("float32")
