"""Mixtures of experts and attentions with sinks and windows, in layers of users' classes."""

import keras
import numpy as np

import tfprune
from tests.coupling.rules.comparing import randomised

layers, ops = keras.layers, keras.ops


class Bank(layers.Layer):
    """All experts at once, with private weights of its own: gate and value in one, and biases."""

    def __init__(self, experts, hidden, **kwargs):
        super().__init__(**kwargs)
        self.experts, self.hidden = experts, hidden

    def build(self, shape):
        width = shape[-1]
        self._up = self.add_weight(shape=(self.experts, width, 2 * self.hidden), name="up")
        self._shift = self.add_weight(shape=(self.experts, 2 * self.hidden), name="shift")
        self._down = self.add_weight(shape=(self.experts, self.hidden, width), name="down")

    def call(self, tokens):
        both = ops.einsum("th,ehm->etm", tokens, self._up) + self._shift[:, None]
        gate, value = ops.split(both, 2, axis=-1)
        return ops.einsum("etm,emh->eth", value * ops.silu(gate), self._down)


class Experts(layers.Layer):
    """A router, which gives each token to some of the experts; the residual around them."""

    def __init__(self, experts, top, hidden, **kwargs):
        super().__init__(**kwargs)
        self.experts, self.top = experts, top
        self.router = layers.Dense(experts, name="router")
        self.bank = Bank(experts, hidden, name="bank")

    def build(self, shape):
        self.width = shape[-1]
        self.router.build(shape)
        self.bank.build(shape)

    def call(self, x):
        batch, length = ops.shape(x)[0], ops.shape(x)[1]
        tokens = ops.reshape(x, (-1, self.width))
        chances, chosen = ops.top_k(ops.softmax(self.router(tokens)), self.top)
        shares = ops.sum(ops.one_hot(chosen, self.experts) * chances[..., None], axis=1)
        mixed = ops.sum(self.bank(tokens) * ops.transpose(shares)[:, :, None], axis=0)
        return x + ops.reshape(mixed, (batch, length, self.width))


class Attention(layers.Layer):
    """Attention within a window, with sinks: logits of no token, learned for each head."""

    def __init__(self, heads, **kwargs):
        super().__init__(**kwargs)
        self.heads = heads

    def build(self, shape):
        size = shape[-1] // self.heads
        self.projections = [
            layers.EinsumDense("blw,whd->blhd", (None, self.heads, size), name=f"projection_{i}")
            for i in range(3)
        ]
        self.out = layers.EinsumDense("blhd,hdw->blw", (None, shape[-1]), name="out")
        for projection in self.projections:
            projection.build(shape)
        self.out.build((None, None, self.heads, size))
        self.sinks = self.add_weight(shape=(self.heads,), name="sinks")

    def call(self, x):
        query, key, value = (projection(x) for projection in self.projections)
        logits = ops.einsum("bqhd,bkhd->bhqk", query, key)
        length = ops.shape(logits)[-1]
        distance = ops.arange(length)[:, None] - ops.arange(length)[None]
        logits = ops.where((distance >= 0) & (distance < 3), logits, -1e9)
        sinks = ops.reshape(self.sinks, (1, self.heads, 1, 1))
        sinks = ops.broadcast_to(sinks, (ops.shape(logits)[0], self.heads, length, 1))
        shares = ops.softmax(ops.concatenate([logits, sinks], axis=-1))[..., :-1]
        return x + self.out(ops.einsum("bhqk,bkhd->bqhd", shares, value))


def stripped(layer):
    """A layer between dense ones after half of the units went, in a model that computes the same"""
    inputs = keras.Input((None, 3))
    x = layers.Dense(8, name="wide")(inputs)
    model = randomised(keras.Model(inputs, layers.Dense(2, name="head")(layer(x))))
    masked = tfprune.prunable(model)
    tfprune.prune_units(masked, 0.5, tfprune.criteria.Random(seed=0))
    small = tfprune.strip(masked, check=False)
    data = np.random.default_rng(0).normal(size=(5, 6, 3)).astype("float32")
    expected = np.asarray(masked(data))
    np.testing.assert_allclose(small(data), expected, rtol=0, atol=1e-5 * np.abs(expected).max())
    assert small.get_layer("wide").units == 4
    return small.get_layer(layer.name)


def test_the_width_and_the_hidden_units_of_all_experts_shrink():
    small = stripped(Experts(experts=5, top=2, hidden=6, name="mixture"))
    shapes = [tuple(weight.shape) for weight in small.bank.weights]
    assert shapes == [(5, 4, 6), (5, 6), (5, 3, 4)]
    assert small.router.kernel.shape == (4, 5)


def test_numbers_that_equal_a_size_by_chance_stay():
    small = stripped(Experts(experts=8, top=4, hidden=4, name="mixture"))
    assert (small.experts, small.top, small.width) == (8, 4, 4)
    assert [tuple(weight.shape) for weight in small.bank.weights][2] == (8, 2, 4)


def test_heads_with_windows_and_sinks_shrink():
    small = stripped(Attention(4, name="attention"))
    assert small.sinks.shape == (2,)
    assert [p.kernel.shape for p in small.projections] == [(4, 2, 2)] * 3
    assert small.out.kernel.shape == (2, 2, 4)
