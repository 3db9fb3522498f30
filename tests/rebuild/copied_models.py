"""Models to copy, one for each thing that can go wrong."""

import collections
import functools

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops

import tfprune
from tests.user_code.models import train_step

X = np.random.default_rng(0).normal(size=(16, 4)).astype("float32")
Y = np.random.default_rng(1).normal(size=(16, 2)).astype("float32")


def functional():
    inputs = keras.Input((4,), name="x")
    hidden = layers.Dense(6, activation="relu", name="a")(inputs)
    hidden = layers.BatchNormalization()(hidden + layers.Dense(6, use_bias=False, name="b")(hidden))
    return keras.Model(inputs, layers.Dense(2)(ops.tanh(hidden) * 2.0))


def sequential():
    return keras.Sequential(
        [keras.Input((4,)), layers.Dense(6), layers.Dropout(0.5, seed=3), layers.Dense(2)]
    )


def shared_layer():
    inputs = keras.Input((4,))
    dense = layers.Dense(4, activation="tanh")
    return keras.Model(inputs, layers.Dense(2)(dense(dense(inputs)) + dense(inputs * 2)))


def shared_and_nested_model():
    inner = keras.Sequential([keras.Input((4,)), layers.Dense(4, name="d")], name="inner")
    inputs = keras.Input((4,))
    outer = keras.Model(inputs, inner(inner(inputs)), name="outer")
    again = keras.Input((4,))
    return keras.Model(again, layers.Dense(2)(outer(again) + inner(again)))


def part_of_a_larger_model():
    inputs = keras.Input((4,))
    hidden = layers.Dense(5, name="hidden")(inputs)
    larger = keras.Model(inputs, layers.Dense(7)(hidden))
    layers.Dense(3)(larger.output)
    return keras.Model(inputs, layers.Dense(2)(hidden))


def cut_out_of_the_middle():
    inputs = keras.Input((4,))
    first = layers.Dense(4)(inputs)
    return keras.Model(first, layers.Dense(2)(layers.Dense(5)(first)))


class NoConfig(layers.Layer):
    """What a layer that nobody edits need not have."""

    def __init__(self, by, function=None):
        super().__init__()
        self.by, self.function = by, function

    def build(self, shape):
        self.token = self.add_weight(shape=(shape[-1],), name="token")

    def call(self, x):
        x = x * self.by + self.token
        return x if self.function is None else self.function(x)

    def get_config(self):
        raise AssertionError("The config of a layer that is not edited is not read.")


def custom_layers():
    return keras.Sequential(
        [keras.Input((4,)), NoConfig(2.0), layers.Dense(3), NoConfig(0.5, ops.abs), layers.Dense(2)]
    )


class Renamed(layers.Layer):
    """Changes its own name, as MobileNet of KerasHub does."""

    def __init__(self, units, name=None, **kwargs):
        super().__init__(name=f"{name}_0", **kwargs)
        self.dense = layers.Dense(units)

    def build(self, shape):
        self.dense.build(shape)

    def call(self, x):
        return self.dense(x)


def renamed():
    return keras.Sequential([keras.Input((4,)), Renamed(3, name="block"), layers.Dense(2)])


class Holder(layers.Layer):
    """Sub-layers in lists, dicts and plain objects; models in attributes."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.listed = [layers.Dense(4), [layers.Dense(4)]]
        self.by_name = {"a": layers.Dense(4), "b": {"c": layers.Dense(4)}}
        self.ordered = collections.OrderedDict(z=layers.Dense(4), y=layers.Dense(4))
        self.pair = (layers.Dense(4), 3)
        self.model = keras.Sequential([layers.Dense(4), layers.Dense(4)])
        inputs = keras.Input((4,))
        self.graph = keras.Model(inputs, layers.Dense(4)(inputs) + 1.0)
        self.own = keras.Variable(np.full(4, 0.5, "float32"), name="own")

    def call(self, x):
        x = self.listed[1][0](self.listed[0](x))
        x = self.by_name["b"]["c"](self.by_name["a"](x))
        for dense in self.ordered.values():
            x = dense(x)
        return self.graph(self.model(self.pair[0](x))) * self.own


def holder():
    return keras.Sequential([keras.Input((4,)), Holder(), layers.Dense(2)])


class Closures(layers.Layer):
    """Functions which refer to what is copied."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = layers.Dense(4)
        self.other = layers.Dense(4)
        self.by_lambda = lambda x: self.dense(x)
        self.by_method = self.apply_other
        self.by_partial = functools.partial(self.scaled, by=2.0)
        self.by_default = lambda x, layer=self.other: layer(x)
        self.compiled = tf.function(self.apply_other)

        def recursive(x, times):
            return x if times == 0 else recursive(self.dense(x), times - 1)

        self.recursive = recursive

    def build(self, shape):
        self.dense.build(shape)
        self.other.build(shape)

    def apply_other(self, x):
        return self.other(x)

    def scaled(self, x, by):
        return self.dense(x) * by

    def call(self, x):
        x = self.by_partial(self.by_method(self.by_lambda(x)))
        return self.recursive(self.compiled(self.by_default(x)), 2)


def closures():
    return keras.Sequential([keras.Input((4,)), Closures(), layers.Dense(2)])


def lambdas():
    return keras.Sequential(
        [
            keras.Input((4,)),
            layers.Dense(6, activation=lambda x: ops.maximum(x, 0.1)),
            layers.Lambda(lambda x: ops.abs(x)),
            layers.Dense(2),
        ]
    )


class Subclassed(keras.Model):
    """A `train_step`, trackers, own weights and own random numbers."""

    def __init__(self):
        super().__init__()
        self.a, self.b = layers.Dense(5, activation="relu"), layers.Dense(2)
        self.seed = keras.random.SeedGenerator(7)
        self.loss_tracker = keras.metrics.Mean(name="loss")
        self.scale = self.add_weight(shape=(2,), initializer="ones", name="scale")

    def call(self, x, training=False):
        if training:
            x = x + keras.random.normal(ops.shape(x), seed=self.seed)
        return self.b(self.a(x)) * self.scale

    def train_step(self, data):
        self.loss_tracker.update_state(train_step(self, data)["loss"])
        return {"loss": self.loss_tracker.result()}

    @property
    def metrics(self):
        return [self.loss_tracker]


def subclassed():
    model = Subclassed()
    model(X)
    return model


class FunctionalSubclass(keras.Model):
    """A graph of its own, made in `__init__` from numbers, as a backbone of KerasHub."""

    def __init__(self, units, **kwargs):
        embed = layers.Dense(units, name="embed")
        inputs = keras.Input((4,))
        super().__init__(inputs, layers.Dense(2)(embed(inputs)), **kwargs)
        self.embed = embed
        self.units = units

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, **kwargs):
        return 100.0 + ops.mean((y - y_pred) ** 2)


def functional_subclass():
    return FunctionalSubclass(5)


class Wrapper(keras.Model):
    """Models in the attributes of a subclassed model, one of them also inside the other."""

    def __init__(self):
        super().__init__()
        self.encoder = keras.Sequential([layers.Dense(4, activation="relu"), layers.Dense(4)])
        inputs = keras.Input((4,))
        self.decoder = keras.Model(inputs, layers.Dense(2)(self.encoder(inputs)))

    def call(self, x):
        return self.decoder(self.encoder(x))


def wrapper():
    model = Wrapper()
    model(X)
    return model


def recurrent():
    return keras.Sequential(
        [
            keras.Input((4,)),
            layers.Reshape((4, 1)),
            layers.Bidirectional(layers.LSTM(3, return_sequences=True, recurrent_dropout=0.2)),
            layers.RNN(layers.StackedRNNCells([layers.GRUCell(3), layers.LSTMCell(2)])),
            layers.Dense(2),
        ]
    )


def mixed_precision():
    return keras.Sequential(
        [keras.Input((4,)), layers.Dense(5, dtype="mixed_bfloat16"), layers.Dense(2)]
    )


def masked():
    model = tfprune.prunable(functional())
    tfprune.set_masks(model, "a", "kernel", trainable=np.s_[:, :3], frozen=np.s_[0])
    return model


MODELS = [
    functional,
    sequential,
    shared_layer,
    shared_and_nested_model,
    part_of_a_larger_model,
    custom_layers,
    renamed,
    holder,
    closures,
    lambdas,
    subclassed,
    functional_subclass,
    wrapper,
    recurrent,
    mixed_precision,
    masked,
]
