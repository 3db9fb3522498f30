"""Models of stock layers and of users' classes, for masks on layers that exist already."""

import keras
import numpy as np
import pytest
from keras import layers, ops

from tests.user_code.models import train_step
from tfprune.masks.in_place import mask_in_place
from tfprune.masks.setting import masked_layers
from tfprune.rebuild.copying import copy_model

X = np.random.default_rng(0).normal(size=(16, 4)).astype("float32")
Y = np.random.default_rng(1).normal(size=(16, 2)).astype("float32")


class Own(layers.Layer):
    """Weights by `add_weight`, by a variable, in a list; one that is not trained, one of ints."""

    def __init__(self, by=2.0, **kwargs):
        super().__init__(**kwargs)
        self.by = by
        self.scale = keras.Variable(1.0, name="scale")

    def build(self, shape):
        self.token = self.add_weight(shape=(shape[-1],), name="token")
        self.listed = [self.add_weight(shape=(shape[-1],), name=f"w{i}") for i in range(2)]
        self.still = self.add_weight(shape=(shape[-1],), trainable=False, name="still")
        self.count = self.add_weight(shape=(), dtype="int32", initializer="zeros", name="count")

    def call(self, x):
        return x * self.by * self.scale + self.token + self.listed[0] * self.listed[1]


class Holder(layers.Layer):
    """Sub-layers in lists and dicts, built late, and one made in `build`."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.listed = [layers.Dense(4, name="a"), Own(name="own")]
        self.by_name = {"b": {"c": layers.Dense(4, name="c")}}

    def build(self, shape):
        self.late = layers.Dense(shape[-1], name="late")

    def call(self, x):
        return self.late(self.by_name["b"]["c"](self.listed[1](self.listed[0](x))))


class SubDense(layers.Dense):
    def call(self, x, training=False):
        return super().call(x, training=training) + 1.0


class Heads(layers.MultiHeadAttention):
    """As the cached attention of KerasHub: it calls its projections itself."""

    def call(self, query, value, key=None):
        return super().call(query, value, key) + self._output_dense(self._query_dense(value))


@keras.saving.register_keras_serializable("tests")
class Cell(layers.Layer):
    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = self.state_size = units

    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1], self.units), name="kernel")
        self.recurrent = self.add_weight(shape=(self.units, self.units), name="recurrent")

    def call(self, x, states):
        h = ops.tanh(x @ self.kernel + states[0] @ self.recurrent)
        return h, [h]

    def get_config(self):
        return {**super().get_config(), "units": self.units}


class Untied(layers.Layer):
    """Reads a weight of the layer in it without calling that."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = layers.Dense(4, use_bias=False)

    def build(self, shape):
        self.dense.build(shape)

    def call(self, x):
        return ops.matmul(x, ops.transpose(self.dense.kernel))


class Net(keras.Model):
    train_step = train_step

    def __init__(self, units=5, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.a, self.own, self.b = layers.Dense(units, activation="relu"), Own(), layers.Dense(2)
        self.scale = self.add_weight(shape=(2,), initializer="ones", name="scale")

    def call(self, x):
        return self.b(self.own(self.a(x))) * self.scale

    def get_config(self):
        return {"units": self.units}


class Backbone(keras.Model):
    """A graph made from numbers in `__init__`, as in KerasHub."""

    def __init__(self, units, **kwargs):
        inputs = keras.Input((4,))
        block = Holder(name="block")
        super().__init__(inputs, layers.Dense(2)(block(SubDense(units)(inputs))), **kwargs)
        self.block, self.units = block, units

    def get_config(self):
        return {"units": self.units, "name": self.name}


CUSTOM = {c.__name__: c for c in (Own, Holder, SubDense, Heads, Untied, Net, Backbone)}


def sequential(*parts):
    return keras.Sequential([keras.Input((4,)), *parts, layers.Dense(2)])


def attending():
    inputs = keras.Input((4,))
    x = layers.Reshape((2, 2))(inputs)
    return keras.Model(inputs, layers.Dense(2)(layers.Flatten()(Heads(2, 3)(x, x))))


def net():
    model = Net()
    model(X)
    return model


MODELS = {
    "own weights": lambda: sequential(layers.Dense(3), Own()),
    "lists and dicts": lambda: sequential(Holder()),
    "subclass of Dense": lambda: sequential(SubDense(3)),
    "subclass of attention": attending,
    "custom cell": lambda: sequential(
        layers.Reshape((4, 1)), layers.Bidirectional(layers.RNN(Cell(3)))
    ),
    "stacked cells": lambda: sequential(
        layers.Reshape((4, 1)), layers.RNN([Cell(3), layers.GRUCell(2)])
    ),
    "stock": lambda: sequential(
        layers.BatchNormalization(), layers.Reshape((4, 1)), layers.LSTM(3), layers.PReLU()
    ),
    "weight read from outside": lambda: sequential(Untied()),
    "subclassed": net,
    "graph from numbers": lambda: Backbone(3),
}


by_model = pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)


def masked(make):
    model = make()
    copy = copy_model(model, exchange=mask_in_place)
    return model, copy.model


def masks_of(model):
    """The value and the masks of every weight that has masks, in the order of the weights."""
    found = {}
    for layer in masked_layers(model):
        for mask in layer.masks_by_name.values():
            values = mask.weight, mask.trainable, mask.frozen, mask.live
            found[id(mask.weight)] = [np.asarray(value) for value in values]
    return [found[id(weight)] for weight in model.weights if id(weight) in found]
