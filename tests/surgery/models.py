"""Models under surgery, with random weights and inputs."""

import keras
import numpy as np
from keras import layers


def drawn(model):
    """The model with random weights, biases and statistics, without zeros."""
    draw = np.random.default_rng(0)
    for weight in model.weights:
        value = draw.normal(size=weight.shape)
        weight.assign(np.abs(value) + 0.5 if "variance" in weight.name else value)
    return model


def example(model, batch=3):
    (tensor,) = model.inputs
    draw = np.random.default_rng(1)
    return draw.normal(size=(batch, *tensor.shape[1:])).astype("float32")


def names(model):
    return [layer.name for layer in model.layers if not isinstance(layer, layers.InputLayer)]


def chain():
    return drawn(
        keras.Sequential(
            [
                keras.Input((3,)),
                layers.Dense(4, activation="relu", name="a"),
                layers.Dense(5, name="b"),
                layers.Dense(2, name="c"),
            ]
        )
    )


def images():
    inputs = keras.Input((6, 6, 2))
    x = layers.Conv2D(4, 3, activation="relu", name="conv")(inputs)
    x = layers.MaxPooling2D(2, name="pool")(x)
    return drawn(keras.Model(inputs, layers.Dense(2, name="last")(layers.Flatten()(x))))


def two_branches():
    inputs = keras.Input((3,))
    a, b = (layers.Dense(n, name=name)(inputs) for n, name in ((4, "a"), (5, "b")))
    c = layers.Dense(4, name="c")(inputs)
    total = layers.Add(name="total")([a, c])
    joined = layers.Concatenate(name="joined")([total, b])
    joined = layers.BatchNormalization(name="norm")(joined)
    return drawn(keras.Model(inputs, layers.Dense(2, name="last")(joined)))
