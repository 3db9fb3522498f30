"""Models whose units criteria score."""

import keras
import numpy as np

from tfprune import layers


def with_drawn_weights(model, draw):
    """Weights that nothing has in common with others, and norms that are not fresh; compiled."""
    for weight in model.weights:
        values = draw.normal(size=weight.shape)
        weight.assign(np.abs(values) + 0.5 if "variance" in weight.path else values)
    model.compile("sgd", "mse")
    return model


def residual_model():
    """Units of `a` and `b` are one set: `b` reads them after norm and ReLU, `out` after the sum."""
    inputs = keras.Input((4,))
    a = layers.Dense(5, name="a")(inputs)
    h = layers.ReLU(name="relu")(layers.BatchNormalization(name="bn")(a))
    b = layers.Dense(5, name="b")(h)
    outputs = layers.Dense(2, name="out")(keras.layers.Add(name="add")([a, b]))
    return keras.Model(inputs, outputs)
