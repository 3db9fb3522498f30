"""A folder with a model and data for commands, and what is in a folder."""

import keras
import numpy as np

RNG = np.random.default_rng(0)
X = RNG.normal(size=(64, 6)).astype("float32")


def compiled_model(units=16):
    model = keras.Sequential(
        [
            keras.Input((6,), name="x"),
            keras.layers.Dense(units, activation="relu", name="hidden"),
            keras.layers.Dense(2, name="logits"),
        ]
    )
    model.compile("sgd", "mse", metrics=["mae"])
    return model


def contents(place):
    return {
        path.relative_to(place): path.read_bytes() if path.is_file() else None
        for path in place.rglob("*")
    }
