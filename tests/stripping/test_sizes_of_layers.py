"""Layers that take some sizes alone, or say other shapes than they give, shrink exactly."""

import keras
import numpy as np
import pytest

import tfprune

layers, ops = keras.layers, keras.ops
LENGTH = 6


class AddsPositions(layers.Layer):
    """Takes sequences of one length alone: those that it has positions for."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.tokens = layers.Embedding(9, 8, name="of_tokens")
        self.positions = layers.Embedding(LENGTH, 8, name="of_positions")

    def build(self, shape):
        self.tokens.build(shape)
        self.positions.build((1, LENGTH))
        self.built = True

    def call(self, inputs):
        return self.tokens(inputs) + self.positions(self.places())

    def places(self):
        return ops.expand_dims(ops.arange(LENGTH), 0)


class AddsRows(AddsPositions):
    """Looks up positions by a vector without a batch."""

    def places(self):
        return ops.arange(LENGTH)


class KeepsPlaces(AddsPositions):
    """Has the places as a weight, and says a length that it does not give."""

    def build(self, shape):
        super().build(shape)
        self.ids = self.add_weight(
            shape=(1, LENGTH), dtype="int32", initializer="zeros", trainable=False, name="ids"
        )
        self.ids.assign(np.arange(LENGTH)[None])

    def places(self):
        return self.ids

    def compute_output_shape(self, shape):
        return (shape[0], LENGTH + 1, 8)


class Table(layers.Layer):
    """Positions for up to some steps, in the shape of its input."""

    def build(self, shape):
        self.table = self.add_weight(shape=(LENGTH, shape[-1]), name="table")

    def call(self, inputs):
        shape = ops.shape(inputs)
        return ops.broadcast_to(ops.slice(self.table, (0, 0), shape[1:]), shape)

    def compute_output_shape(self, shape):
        return shape


class ShortTable(AddsPositions):
    """Holds a layer that is called for a few steps only."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.table = Table(name="short_table")

    def build(self, shape):
        super().build(shape)
        self.table.build((*shape, 8))

    def call(self, inputs):
        x = self.tokens(inputs)
        return x + self.table(x)


class OfAModel(layers.Layer):
    """Holds a model, and so takes images of one size alone."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.images = keras.Sequential(
            [layers.Conv2D(8, 3, name="conv"), layers.Flatten()], name="images"
        )

    def build(self, shape):
        self.images.build((None, LENGTH, LENGTH, 1))
        self.shift = self.add_weight(shape=(8 * (LENGTH - 2) ** 2,), name="shift")
        self.built = True

    def call(self, inputs):
        return self.images(inputs[..., None]) + self.shift


def fed(own, dtype="int32", shape=(None,)):
    inputs = keras.Input(shape, dtype=dtype)
    x = layers.Dense(7, "relu", name="next")(own(inputs))
    return keras.Model(inputs, layers.Dense(2, name="last")(x))


def shrunk(model, examples):
    """A model with half of its units, shown to compute what the masked model does."""
    draw = np.random.default_rng(0)
    for weight in model.trainable_weights:
        weight.assign(draw.normal(size=weight.shape))
    masked = tfprune.prunable(model)
    tfprune.prune_units(masked, 0.5, tfprune.criteria.Random(seed=0))
    small, report = tfprune.strip(masked, return_report=True)
    for x in examples:
        np.testing.assert_allclose(small(x), masked(x), rtol=1e-4, atol=1e-5)
    return small, report


def sizes(model, name):
    return [tuple(w.shape) for w in model.weights if f"{name}/" in w.path]


@pytest.mark.parametrize("own", [AddsPositions, AddsRows, KeepsPlaces])
def test_a_layer_that_takes_one_length(own):
    x = np.random.default_rng(0).integers(0, 9, (5, LENGTH))
    small, _ = shrunk(fed(own(name="own")), [x, x[:1]])
    assert sizes(small, "of_tokens") == [(9, 4)]
    assert sizes(small, "of_positions") == [(LENGTH, 4)]


def test_a_layer_inside_that_takes_a_few_steps():
    x = np.random.default_rng(0).integers(0, 9, (5, LENGTH))
    small, _ = shrunk(fed(ShortTable(name="own")), [x, x[:, :3]])
    assert sizes(small, "short_table") == [(LENGTH, 4)]


def test_a_model_inside_that_takes_one_size():
    x = np.random.default_rng(0).normal(size=(5, LENGTH, LENGTH))
    small, _ = shrunk(fed(OfAModel(name="own"), "float32", (None, None)), [x])
    assert sizes(small, "conv") == [(3, 3, 1, 4), (4,)]


class Pairs(layers.Layer):
    """Which steps see which; says the shape of what it is given, and not that of the pairs."""

    def call(self, inputs):
        seen = ops.cast(inputs > 0, "float32")
        return ops.expand_dims(seen, 1) * ops.expand_dims(seen, 2)

    def compute_output_shape(self, shape):
        return shape


class TwiceAsLong(layers.Layer):
    """Waves for twice the steps of its input, as relative positions have them."""

    def __init__(self, width, **kwargs):
        super().__init__(**kwargs)
        self.width = width
        self.words = layers.Embedding(9, width, name="words")

    def build(self, shape):
        self.words.build(shape)
        self.built = True

    def call(self, inputs):
        batch, length = ops.shape(inputs)[0], ops.shape(inputs)[1]
        steps = ops.cast(ops.arange(2 * length), "float32")
        waves = 1.0 / 10.0 ** (ops.arange(0, self.width, dtype="float32") / self.width)
        waves = ops.sin(ops.expand_dims(steps, 1) * waves)
        return self.words(inputs), ops.ones((batch, 1, 1)) * ops.expand_dims(waves, 0)

    def compute_output_shape(self, shape):
        return [(*shape, self.width), (shape[0], 1, self.width)]

    def get_config(self):
        return {**super().get_config(), "width": self.width}


class Attends(layers.Layer):
    """Attention by hand to steps and positions, with one mask for all heads."""

    def __init__(self, heads, **kwargs):
        super().__init__(**kwargs)
        self.heads = heads
        make = layers.EinsumDense
        shape = (None, heads, 3)
        self.query, self.key, self.value, self.position = (
            make("abc,chd->abhd", shape, name=name) for name in ("query", "key", "value", "place")
        )
        self.join = make("abhd,hdc->abc", (None, 8), name="join")

    def build(self, x_shape, seen_shape, positions_shape):
        for part in (self.query, self.key, self.value):
            part.build(x_shape)
        self.position.build(positions_shape)
        self.join.build((None, None, self.heads, 3))
        self.bias = self.add_weight(shape=(self.heads, 3), name="bias")
        self.built = True

    def call(self, x, seen, positions):
        query, key, value = self.query(x), self.key(x), self.value(x)
        scores = ops.einsum("bind,bjnd->bnij", query + self.bias, key)
        length = ops.shape(x)[1]
        scores = scores + ops.einsum("bind,bjnd->bnij", query, self.position(positions)[:, length:])
        seen = ops.broadcast_to(ops.expand_dims(seen, 1), ops.shape(scores))
        weights = ops.softmax(ops.where(seen > 0, scores, -1e9), axis=-1)
        return x + self.join(ops.einsum("bnij,bjnd->bind", weights, value))

    def compute_output_shape(self, x_shape, seen_shape, positions_shape):
        return x_shape


def test_layers_that_say_other_shapes_than_they_give():
    """The width of words goes, though the layer computes waves with it and says it."""
    inputs = keras.Input((None,), dtype="int32")
    x, positions = TwiceAsLong(8, name="twice")(inputs)
    x = Attends(4, name="attends")(x, Pairs(name="pairs")(inputs), positions)
    model = keras.Model(inputs, layers.Dense(2, name="last")(x))
    draw = np.random.default_rng(0)
    examples = [draw.integers(0, 9, shape) for shape in ((5, 4), (2, 9))]
    small, report = shrunk(model, examples)
    assert sizes(small, "words") == [(9, 4)]
    assert sizes(small, "place") == [(8, 2, 3)]
    assert sizes(small, "attends") == [(2, 3)]
    assert small.get_layer("twice").width == 8
    again = tfprune.strip(tfprune.prunable(small))
    assert again.count_params() == small.count_params()
    for x in examples:
        np.testing.assert_allclose(again(x), small(x), rtol=1e-4, atol=1e-5)
    assert "twice" in report.not_from_config
