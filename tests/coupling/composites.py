"""Composite layers, opened by themselves and in a model, for tests."""

import inspect

import keras

from tfprune.coupling.composite import trace_composite

layers, ops = keras.layers, keras.ops


class Composite(layers.Layer):
    """Two layers, and whatever `call` a subclass has."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.wide = layers.Dense(8, activation="relu", name="wide")
        self.narrow = layers.Dense(4, name="narrow")

    def build(self, shape):
        self.wide.build(shape)
        self.narrow.build((*shape[:-1], 8))

    def call(self, inputs):
        return self.narrow(self.wide(inputs))


def line_of(cls, text):
    lines, first = inspect.getsourcelines(cls)
    return first + next(place for place, line in enumerate(lines) if text in line)


def traced(layer):
    layer.build((None, 4))
    return trace_composite(layer, [keras.KerasTensor((None, 4))], {})


def model_with(block, shape=(4,)):
    inputs = keras.Input(shape)
    x = layers.Dense(4, name="first")(inputs)
    return keras.Model(inputs, layers.Dense(2, name="last")(block(x)))
