"""What is inside of models that stay what they are: models, cells, functions of TensorFlow, text.

A subclassed model with a weight of its own cannot be inlined, so all in it is resized in place.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfprune
from tests.coupling.rules.comparing import randomised
from tfprune.coupling import couple, select
from tfprune.rebuild.engine import rebuild

layers, ops = keras.layers, keras.ops
WORDS = ["red", "green", "blue", "pink"]


class InOrder(keras.Model):
    """Calls layers one after the other, and multiplies by a weight of its own."""

    def __init__(self, parts):
        super().__init__(name="in_order")
        self.parts = parts

    def build(self, shape):
        self.gain = self.add_weight(name="gain", initializer="ones")

    def call(self, inputs):
        for part in self.parts:
            inputs = part(inputs)
        return inputs * self.gain


class Scale(layers.Layer):
    def build(self, shape):
        self.scale = self.add_weight(shape=shape[-1:], name="scale")

    def call(self, inputs):
        return ops.tanh(inputs * self.scale)


@keras.saving.register_keras_serializable("tests.parts")
class GatedCell(layers.Layer):
    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = self.state_size = self.output_size = units

    def build(self, shape):
        self.given = self.add_weight(shape=(shape[-1], 2 * self.units), name="given")
        self.again = self.add_weight(shape=(self.units, 2 * self.units), name="again")

    def call(self, inputs, states, training=False):
        x = ops.matmul(inputs, self.given) + ops.matmul(states[0], self.again)
        state = ops.sigmoid(x[:, : self.units]) * ops.tanh(x[:, self.units :])
        return state, [state]

    def get_config(self):
        return {**super().get_config(), "units": self.units}


class OfTensorFlow(layers.Layer):
    """Its `call` does not run on symbolic tensors."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = layers.Dense(8, name="inner")

    def build(self, shape):
        self.dense.build(shape)

    def call(self, inputs):
        x = self.dense(inputs)
        return tf.nn.relu(x) + tf.sort(x)


def graph():
    inputs = keras.Input((5, 8))
    x = layers.Dense(6, activation="relu", name="wide")(inputs)
    return keras.Model(inputs, layers.Dense(8)(Scale()(x)) + inputs)


PARTS = {
    "Sequential": lambda: keras.Sequential([layers.Dense(6, activation="relu"), layers.Dense(8)]),
    "graph": graph,
    "model in a model": lambda: keras.Sequential([graph(), layers.Dense(8)]),
    "cell": lambda: layers.RNN(GatedCell(8), return_sequences=True),
    "cells": lambda: layers.RNN([layers.GRUCell(4), GatedCell(8)], return_sequences=True),
    "both ways": lambda: layers.Bidirectional(layers.RNN(GatedCell(4), return_sequences=True)),
}


def in_order(part):
    keras.utils.set_random_seed(0)
    parts = [layers.Dense(8, activation="relu", name="first"), part, layers.Dense(2)]
    model = InOrder(parts)
    model(np.zeros((2, 5, 3), "float32"))
    return randomised(model)


def pruned(model):
    masked = tfprune.prunable(model)
    tfprune.prune_units(masked, 0.5, tfprune.criteria.Random(seed=0))
    return masked


X = np.random.default_rng(0).normal(size=(4, 5, 3)).astype("float32")


@pytest.mark.parametrize("name", PARTS)
def test_they_shrink_with_the_model(name):
    masked = pruned(in_order(PARTS[name]()))
    small = tfprune.strip(masked)
    assert isinstance(small, InOrder)
    assert small.count_params() < 0.55 * masked.count_params()
    np.testing.assert_allclose(small(X), masked(X), rtol=1e-4, atol=1e-5)
    small.compile("sgd", "mse")
    small.train_on_batch(X, np.zeros((4, 5, 2), "float32"))


def test_a_layer_inside_that_cannot_be_traced_is_called_as_it_is():
    model = in_order(keras.Sequential([OfTensorFlow(name="odd"), layers.Dense(8, name="next")]))
    masked = pruned(model)
    small = tfprune.strip(masked)
    odd, after = small.parts[1].layers
    assert odd.dense.kernel.shape == (4, 8)
    assert after.kernel.shape == (8, 4)
    np.testing.assert_allclose(small(X), masked(X), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["graph", "cell"])
def test_masks_stay_where_a_model_is_resized(name):
    masked = tfprune.prunable(in_order(PARTS[name]()))
    first = masked.parts[0]
    tfprune.set_masks(masked, first, "kernel", trainable=np.arange(24).reshape(3, 8) % 3 > 0)
    smaller = rebuild(masked, select(couple(masked), {first: [0, 1, 3, 4, 6]}), stock=False)
    ours, theirs = (
        sum(len(getattr(each, "masks_by_name", {})) for each in tfprune._keras.all_layers(model))
        for model in (masked, smaller)
    )
    assert ours == theirs > 0
    mask = smaller.parts[0].trainable_masks["kernel"]
    np.testing.assert_array_equal(mask, (np.arange(24).reshape(3, 8) % 3 > 0)[:, [0, 1, 3, 4, 6]])


def test_text():
    words = layers.StringLookup(vocabulary=WORDS)
    parts = [words, layers.Embedding(5, 8), layers.GlobalAveragePooling1D(), layers.Dense(2)]
    model = InOrder(parts)
    x = tf.constant([["red", "blue"], ["pink", "green"], ["grey", "red"]])
    model(x)
    masked = pruned(randomised(model))
    small = tfprune.strip(masked)
    assert small.parts[1].embeddings.shape == (5, 4)
    np.testing.assert_allclose(small(x), masked(x), rtol=1e-4, atol=1e-5)


def test_explain_draws_the_inputs_of_a_model_without_a_graph():
    found = tfprune.explain(in_order(layers.Dense(8)))
    assert [node.name for node in found.graph if node.type == "Input"] == ["inputs"]
    assert any(each.name == "first" and each.removable == 8 for each in found.sets)


def test_sizes_of_a_cell_that_stays_are_not_taken_for_others():
    before = layers.Dense(4, activation="relu", name="before")
    after = layers.Dense(4, name="after")
    model = InOrder([before, layers.RNN(GatedCell(4), name="recurrent"), Scale(), after])
    data = np.random.default_rng(0).normal(size=(3, 6, 2)).astype("float32")
    model(data)
    masked = tfprune.prunable(randomised(model))
    tfprune.prune_units(masked, units={"before": [1, 2]})
    small = tfprune.strip(masked)
    assert small.parts[0].units == 2
    cell = small.parts[1].cell
    assert (cell.units, cell.state_size, cell.output_size) == (4, 4, 4)
    np.testing.assert_allclose(small(data), masked(data), rtol=1e-5, atol=1e-6)
