"""Small models in which units are coupled in different ways, with random weights."""

import keras
import numpy as np

from tfprune import layers


def plain():
    return keras.Sequential(
        [
            keras.Input((3,)),
            layers.Dense(6, activation="relu", name="a"),
            layers.BatchNormalization(),
            layers.Dense(5, activation="tanh", name="b"),
            layers.Dense(2, name="out"),
        ]
    )


def residual():
    inputs = keras.Input((6, 6, 2))
    x = layers.Conv2D(5, 3, padding="same", activation="relu", name="stem")(inputs)
    y = layers.Conv2D(4, 3, padding="same", activation="relu", name="inner")(x)
    x = x + layers.Conv2D(5, 3, padding="same", name="back")(y)
    x = keras.layers.GlobalAveragePooling2D()(layers.ReLU()(x))
    return keras.Model(inputs, layers.Dense(2, name="out")(x))


def grouped():
    inputs = keras.Input((5, 5, 2))
    x = layers.Conv2D(8, 1, activation="relu", name="before")(inputs)
    x = layers.Conv2D(6, 3, groups=2, activation="relu", name="grouped")(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(2, name="out")(x))


def concat():
    inputs = keras.Input((8, 2))
    a = layers.Conv1D(3, 3, padding="same", activation="relu", name="a")(inputs)
    b = layers.Conv1D(4, 5, padding="same", activation="relu", name="b")(inputs)
    x = layers.Conv1D(5, 3, name="c", activation="relu")(keras.layers.Concatenate()([a, b]))
    return keras.Model(inputs, layers.Dense(2, name="out")(keras.layers.Flatten()(x)))


def recurrent():
    inputs = keras.Input((4, 3))
    x = layers.LSTM(5, return_sequences=True, name="lstm")(inputs)
    x = layers.GRU(4, name="gru")(x)
    return keras.Model(inputs, layers.Dense(2, name="out")(x))


def attention():
    inputs = keras.Input((4, 3))
    x = layers.Dense(4, name="embed")(inputs)
    y = layers.MultiHeadAttention(3, 3, name="mha")(x, x)
    x = layers.LayerNormalization()(x + y)
    y = layers.Dense(5, activation="relu", name="wide")(x)
    x = x + layers.Dense(4, name="narrow")(y)
    return keras.Model(inputs, layers.Dense(2, name="out")(x[:, 0]))


def by_channel():
    inputs = keras.Input((6, 6, 2))
    x = layers.Conv2D(4, 3, activation="relu", name="a")(inputs)
    x = layers.DepthwiseConv2D(3, activation="relu", name="depthwise")(x)
    x = layers.Conv2D(3, 1, activation="relu", name="b")(x)
    return keras.Model(inputs, layers.Dense(2, name="out")(keras.layers.Flatten()(x)))


def split():
    """Half of the units of `wide` go through another layer than the other half."""
    inputs = keras.Input((3,))
    x = layers.Dense(6, activation="relu", name="wide")(inputs)
    first, second = keras.ops.split(x, 2, axis=-1)
    x = keras.layers.Concatenate()(
        [layers.Dense(4, activation="relu", name="first")(first), layers.Dense(2)(second)]
    )
    return keras.Model(inputs, layers.Dense(2, name="out")(x))


def normalised():
    inputs = keras.Input((3,))
    x = layers.Dense(8, activation="relu", name="a")(inputs)
    x = layers.GroupNormalization(groups=2)(x)
    return keras.Model(inputs, layers.Dense(2, name="out")(x))


ALL = {
    make.__name__: make
    for make in (
        plain,
        residual,
        grouped,
        concat,
        recurrent,
        attention,
        by_channel,
        split,
        normalised,
    )
}


def made(name, seed=0):
    """One of the models with random weights."""
    draw = np.random.default_rng(seed)
    model = ALL[name]()
    for weight in model.weights:
        weight.assign(draw.uniform(0.1, 1.0, size=weight.shape))
    return model
