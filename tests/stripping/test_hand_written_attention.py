"""Attention as users write it: what is added for each head, and how it is looked up.

Truth is the masked model; heads must be away in the stripped one.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfprune
from tfprune.stripping.liveness import Liveness

ops = keras.ops
HEADS, SIZE, LENGTH = 4, 3, 6


class Attention(keras.layers.Layer):
    """Heads by einsum; subclasses add to the scores."""

    def __init__(self, heads=HEADS, size=SIZE, **kwargs):
        super().__init__(**kwargs)
        self.heads, self.size = heads, size

    def build(self, shape):
        self.projections = [
            keras.layers.EinsumDense(
                "bsm,mnh->bsnh", (None, self.heads, self.size), name=f"projection_{number}"
            )
            for number in range(3)
        ]
        for projection in self.projections:
            projection.build(shape)
        self.out = keras.layers.Dense(shape[-1], name="out")
        self.out.build((*shape[:-1], self.heads * self.size))
        self.build_bias(shape)
        self.built = True

    def build_bias(self, shape):
        self.gain = self.add_weight(shape=(self.heads, 1, 1), name="gain")

    def biased(self, scores, inputs, padding):
        raise NotImplementedError

    def call(self, inputs, padding):
        batch, length, _ = ops.shape(inputs)
        query, key, value = (projection(inputs) for projection in self.projections)
        scores = self.biased(ops.einsum("bqnh,bknh->bnqk", query, key), inputs, padding)
        mixed = ops.einsum("bnqk,bknh->bqnh", ops.softmax(scores), value)
        return self.out(ops.reshape(mixed, (batch, length, self.heads * self.size)))


class RelativeBias(Attention):
    """A row of a table for each distance, a column for each head."""

    def build_bias(self, shape):
        self.table = self.add_weight(shape=(9, self.heads), name="table")

    def biased(self, scores, inputs, padding):
        length = ops.shape(inputs)[1]
        distance = ops.arange(length)[:, None] - ops.arange(length)[None]
        rows = ops.take(self.table, ops.clip(distance + 4, 0, 8), axis=0)
        bias = ops.expand_dims(ops.transpose(rows, (2, 0, 1)), 0)
        return scores + (bias - ops.cast(padding[:, None, None], "float32"))


class ConstantBias(Attention):
    """The same number for each head, and what is masked in it."""

    def biased(self, scores, inputs, padding):
        length = ops.shape(inputs)[1]
        bias = ops.zeros((1, self.heads, length, length))
        return scores * self.gain + (bias - 3 * ops.cast(padding[:, None, None], "float32"))


class Inlined(ConstantBias):
    """Without weights of its own."""

    gain = 2.0

    def build_bias(self, shape):
        pass


class WrittenOut(Attention):
    """A size in the code, so that heads must stay; the rest goes."""

    def biased(self, scores, inputs, padding):
        return scores * self.gain + np.ones((1, HEADS, 1, 1), "float32")


class Slopes(Attention):
    """Another number for each head."""

    def biased(self, scores, inputs, padding):
        return (
            self.gain
            * scores
            * ops.reshape(ops.power(0.5, ops.arange(1.0, self.heads + 1)), (1, -1, 1, 1))
        )


class Gathered(Attention):
    """Scores against embeddings of distances, which TensorFlow gathers for each head."""

    def build_bias(self, shape):
        self.table = self.add_weight(shape=(9, shape[-1]), name="table")
        self.norm = keras.layers.LayerNormalization(name="norm")
        self.norm.build((None, 9, shape[-1]))

    def biased(self, scores, inputs, padding):
        batch, length, _ = ops.shape(inputs)
        rows = self.norm(ops.expand_dims(ops.convert_to_tensor(self.table), 0))
        rows = ops.repeat(rows, batch, axis=0)
        query, key = self.projections[0](inputs), self.projections[1](rows)
        by_distance = ops.einsum("bqnh,bknh->bnqk", query, key)
        distance = ops.arange(length)[:, None] - ops.arange(length)[None]
        places = ops.clip(distance + 4, 0, 8)
        places = ops.broadcast_to(places, (batch, self.heads, length, length))
        return scores + tf.gather(by_distance, places, batch_dims=3)


class WithConstants(keras.layers.Layer):
    """A block that also returns what nobody takes: an empty tensor of its width, and None."""

    def build(self, shape):
        self.scale = self.add_weight(shape=(shape[-1],), name="scale")
        self.inner = keras.layers.Dense(8, name="inner")
        self.inner.build(shape)
        self.back = keras.layers.Dense(shape[-1], name="back")
        self.back.build((*shape[:-1], 8))
        self.built = True

    def call(self, inputs, padding):
        x = inputs + self.scale * self.back(ops.relu(self.inner(inputs)))
        return x, ops.zeros((0, ops.shape(inputs)[-1]))


def model_of(layer):
    keras.utils.set_random_seed(0)
    inputs, padding = keras.Input((LENGTH, 3)), keras.Input((LENGTH,), dtype="int32")
    x = keras.layers.Dense(8, name="embedding")(inputs)
    y = layer(x, padding)
    x = keras.layers.Add()([x, y[0] if isinstance(y, (list, tuple)) else y])
    model = keras.Model([inputs, padding], keras.layers.Dense(2, name="head")(x))
    draw = np.random.default_rng(0)
    for weight in model.weights:
        weight.assign(draw.normal(size=weight.shape))
    return model


def stripped(layer):
    """The model without half of its units; compared with the masked one."""
    masked = tfprune.prunable(model_of(layer))
    tfprune.prune_units(masked, 0.5, tfprune.criteria.Random(seed=0))
    small = tfprune.strip(masked)
    draw = np.random.default_rng(1)
    x = [draw.normal(size=(3, LENGTH, 3)).astype("float32"), draw.integers(0, 2, (3, LENGTH))]
    expected = np.asarray(masked(x))
    np.testing.assert_allclose(small(x), expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    return {weight.path: tuple(weight.shape) for weight in small.weights}


def shape_of(shapes, name):
    (shape,) = {shape for path, shape in shapes.items() if path.endswith(name)}
    return shape


@pytest.mark.parametrize("cls", [RelativeBias, ConstantBias, Inlined, Gathered])
def test_heads_go_with_what_is_added_for_each(cls):
    shapes = stripped(cls(name="own"))
    assert shape_of(shapes, "projection_0/kernel") == (4, 2, SIZE)
    assert shape_of(shapes, "out/kernel") == (2 * SIZE, 4)


def test_a_table_loses_its_columns_and_keeps_its_rows():
    assert shape_of(stripped(RelativeBias(name="own")), "table") == (9, 2)


def test_a_layer_that_is_called_on_a_weight_shrinks_with_it():
    shapes = stripped(Gathered(name="own"))
    assert shape_of(shapes, "table") == (9, 4)
    assert shape_of(shapes, "norm/gamma") == (4,)


@pytest.mark.parametrize("cls", [WrittenOut, Slopes])
def test_heads_with_constants_of_their_own_stay(cls):
    width, heads, _ = shape_of(stripped(cls(name="own")), "projection_0/kernel")
    assert (width, heads) == (4, HEADS)


def test_outputs_that_nothing_takes_do_not_matter():
    shapes = stripped(WithConstants(name="own"))
    assert shape_of(shapes, "inner/kernel") == (4, 4)


def test_what_strip_returns_is_left_as_it_is():
    masked = tfprune.prunable(model_of(WithConstants(name="own")))
    tfprune.prune_units(masked, 0.5, tfprune.criteria.Random(seed=0))
    found = Liveness(tfprune.strip(masked))
    assert not found.changes
