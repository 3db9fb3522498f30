"""A small MLP that carries masks, data for it, and what its tests look at."""

import keras
import numpy as np

import tfprune
from tfprune import layers

RNG = np.random.default_rng(0)
X = RNG.normal(size=(24, 6)).astype("float32")
Y = RNG.normal(size=(24, 2)).astype("float32")


def mlp(optimizer="adam", **kwargs):
    model = keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(10, activation="relu", name="first"),
            layers.BatchNormalization(name="norm"),
            layers.Dense(2, name="last"),
        ]
    )
    model.compile(optimizer, "mse", **kwargs)
    return model


def fit(model, *callbacks, epochs=2, x=X, y=Y, **kwargs):
    return model.fit(
        x, y, batch_size=4, epochs=epochs, verbose=0, callbacks=list(callbacks), **kwargs
    )


def pruned(model, layer, name="kernel"):
    return ~np.asarray(model.get_layer(layer).trainable_masks[name])


def every_mask(model):
    return [
        np.array(mask)
        for layer in tfprune.masks.masked_layers(model)
        for mask in layer.trainable_masks.values()
    ]


def assert_same(arrays, others):
    assert len(arrays) == len(others)
    for array, other in zip(arrays, others, strict=True):
        np.testing.assert_array_equal(array, other)
