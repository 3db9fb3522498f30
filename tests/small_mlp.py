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


class InAList(keras.Model):
    """Layers one after the other in a subclassed model, which holds them in a list."""

    def __init__(self, parts):
        super().__init__()
        self.parts = parts

    def call(self, x):
        for part in self.parts:
            x = part(x)
        return x


def counting_traces(units, optimizer="sgd"):
    """A compiled model of one layer "d", and a list that grows each time that it is traced."""
    traces = []

    class Traced(layers.Dense):
        def call(self, inputs):
            traces.append(1)
            return super().call(inputs)

    model = keras.Sequential([keras.Input((6,)), Traced(units, name="d")])
    model.compile(optimizer, "mse")
    return model, traces
