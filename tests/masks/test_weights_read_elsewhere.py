"""Weights with masks that are used outside of the layer that made them (contract M4)."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers, ops

import tfprune

X = np.random.default_rng(0).normal(size=(16, 4)).astype("float32")
Y = np.random.default_rng(1).normal(size=(16, 2)).astype("float32")


class Uses(layers.Layer):
    """Shares a layer or a variable with its sibling, and applies a function of it."""

    def __init__(self, source, function, **kwargs):
        super().__init__(**kwargs)
        self.source, self.function = source, function

    def call(self, x):
        return self.function(x, self.source)


class Reads(layers.Layer):
    """Has the weight from a function, so Keras does not see that it is shared."""

    def __init__(self, get, **kwargs):
        super().__init__(**kwargs)
        self.get = get

    def call(self, x):
        return x @ ops.transpose(self.get())


def raw(function):
    return lambda x: function(x)


WAYS = {
    "a layer": lambda a: Uses(a, lambda x, a: ops.matmul(x, ops.transpose(a.kernel))),
    "a variable": lambda a: Uses(a.kernel, lambda x, w: ops.einsum("bj,ij->bi", x, w)),
    "its value": lambda a: Uses(a.kernel, lambda x, w: tf.matmul(x, w.value, transpose_b=True)),
    "a closure": lambda a: Reads(lambda: a.kernel),
    "a Lambda": lambda a: layers.Lambda(lambda x: tf.matmul(x, a.kernel, transpose_b=True)),
    "an operation": lambda a: raw(lambda x: ops.matmul(x, ops.transpose(a.kernel))),
    "operators": lambda a: raw(lambda x: x @ ops.transpose(2.0 * -a.kernel / 3.0 + 1.0)),
    "rows": lambda a: Reads(lambda: ops.concatenate([a.kernel[:2], a.kernel[2:] * a.kernel[2:]])),
    "looked up": lambda a: Reads(lambda: ops.take(a.kernel, [0, 1, 3, 3], axis=0)),
}


def graph(way):
    inputs = keras.Input((4,))
    made = layers.Dense(6, name="made")
    hidden = made(inputs)
    x = WAYS[way](made)(hidden)
    return keras.Model(inputs, layers.Dense(2, name="last")(x))


class InTrainStep(keras.Model):
    """Uses the kernel of a layer and a weight of its own in `train_step` alone."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.made, self.last = layers.Dense(6, name="made"), layers.Dense(2, name="last")
        self.own = self.add_weight(shape=(4, 6), name="own")

    def call(self, x):
        return self.last(self.made(x))

    def loss_of(self, x, y):
        penalty = ops.sum(ops.square(self.made.kernel) * self.own) + ops.sum(3.0 - self.own)
        return ops.mean((self(x, training=True) - y) ** 2) + penalty

    def train_step(self, data):
        with tf.GradientTape() as tape:
            loss = self.loss_of(*data)
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply(gradients, self.trainable_variables)
        return {"loss": loss}


def in_train_step():
    model = InTrainStep()
    model(X)
    return model


def loss_of(model):
    return model.loss_of(X, Y) if isinstance(model, InTrainStep) else ops.sum(model(X) ** 2)


MODELS = {**{way: (lambda way=way: graph(way)) for way in WAYS}, "train_step": in_train_step}


def masked(make):
    """A model, its prunable copy, and for each weight with masks where it is held."""
    model = make()
    model.compile(keras.optimizers.AdamW(0.05, weight_decay=0.1), "mse")
    new = tfprune.prunable(model)
    weights = [(new.get_layer("made"), "kernel")]
    if isinstance(new, InTrainStep):
        weights.append((new, "own"))
    pruned, frozen = np.zeros((4, 6), bool), np.zeros((4, 6), bool)
    pruned[0], frozen[1] = True, True
    for layer, name in weights:
        tfprune.set_masks(new, layer, name, trainable=~pruned, frozen=frozen)
    for old, copied in zip(model.weights, new.weights, strict=True):
        old.assign(copied)
    return model, new, [layer.masked_weights[name] for layer, name in weights], pruned, frozen


def gradients(model, places):
    with tf.GradientTape() as tape:
        loss = loss_of(model)
    found = tape.gradient(loss, [model.weights[place].value for place in places])
    return [np.asarray(tf.convert_to_tensor(gradient)) for gradient in found]


@pytest.mark.parametrize("name", MODELS)
def test_the_gradient_is_that_of_the_model_with_zeros_where_masked(name):
    model, new, weights, pruned, frozen = masked(MODELS[name])
    places = [next(i for i, w in enumerate(new.weights) if w is weight) for weight in weights]
    expected, found = (gradients(each, places) for each in (model, new))
    for gradient, whole in zip(found, expected, strict=True):
        assert whole[pruned].all()
        assert not gradient[pruned | frozen].any()
        np.testing.assert_allclose(gradient, np.where(pruned | frozen, 0, whole), rtol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_pruned_stay_zero_and_frozen_bit_for_bit(name):
    _, new, weights, pruned, frozen = masked(MODELS[name])
    before = [np.array(weight) for weight in weights]
    new.fit(X, Y, epochs=2, verbose=0)
    for weight, start in zip(weights, before, strict=True):
        after = np.array(weight)
        assert not after[pruned].any()
        np.testing.assert_array_equal(after[frozen], start[frozen])
        assert (after != start)[~(pruned | frozen)].all()


class Compiled(layers.Layer):
    """Has a `call` that TensorFlow traces once, for all graphs and for none."""

    def __init__(self):
        super().__init__(name="compiled")
        self.dense = layers.Dense(3, name="inner")

    def build(self, shape):
        self.dense.build(shape)
        self.own = self.add_weight(shape=(3, 3), name="own")

    @tf.function
    def call(self, x):
        for _ in tf.range(2):
            x = tf.concat([tf.tanh(self.dense(x) @ self.own), x[:, :1]], axis=1)
        return x


def test_a_call_that_is_a_function_of_tensorflow():
    inputs = keras.Input((4,))
    model = keras.Model(inputs, layers.Dense(2, name="last")(Compiled()(inputs)))
    masked = tfprune.prunable(model)
    own = masked.get_layer("compiled")
    masked(X)  # traced where there is no graph
    kept = np.arange(9).reshape(3, 3) % 2 > 0
    tfprune.set_masks(masked, own, "own", trainable=kept)
    tfprune.set_masks(masked, own.dense, "kernel", trainable=np.arange(12).reshape(4, 3) > 5)
    masked.compile("sgd", "mse")
    masked.fit(X, Y, verbose=0)
    masked.fit(X, Y, verbose=0)
    masked.predict(X, verbose=0)
    weights = [own.dense.kernel, own.dense.bias, own.own, *masked.layers[-1].weights]
    kernel, bias, w, last, offset = map(np.asarray, weights)
    assert not w[~kept].any() and not kernel[:2].any() and kernel[2:].all()
    x = X
    for _ in range(2):
        x = np.concatenate([np.tanh((x @ kernel + bias) @ w), x[:, :1]], axis=1)
    np.testing.assert_allclose(masked(X), x @ last + offset, rtol=1e-4, atol=1e-5)
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(masked(X))
    gradient = np.asarray(tape.gradient(loss, own.own))
    assert not gradient[~kept].any() and gradient[kept].all()
