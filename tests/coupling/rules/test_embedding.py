"""Embeddings: what looks rows up stays, as the outputs have other units than it."""

import keras
import numpy as np

import tfprune
from tests.coupling.rules.comparing import randomised

layers, ops = keras.layers, keras.ops
REASON = "'table' looks up rows by it"


def stripped(inputs, indices):
    """The model that embeds indices, without half of its units; compared with the masked one."""
    x = layers.Flatten(name="flat")(layers.Embedding(6, 4, name="table")(indices))
    model = randomised(keras.Model(inputs, layers.Dense(2, name="logits")(x)))
    masked = tfprune.prunable(model)
    reasons = [reason for each in tfprune.explain(masked).sets for reason in each.pinned]
    tfprune.prune_units(masked, 0.5)
    small = tfprune.strip(masked)
    assert small.get_layer("table").output_dim == 2
    x = np.random.default_rng(0).normal(size=(8, *inputs.shape[1:])).astype("float32")
    np.testing.assert_allclose(small(x), masked(x), rtol=1e-5, atol=1e-6)
    return small, reasons


def test_units_that_are_told_by_their_sign_stay():
    inputs = keras.Input((3,))
    bits = ops.cast(layers.Dense(6, name="bits")(inputs) > 0, "int32")
    small, reasons = stripped(inputs, bits)
    assert small.get_layer("bits").units == 6
    assert REASON in reasons


def test_positions_that_a_constant_spreads_stay():
    inputs = keras.Input((1,))
    positions = ops.cast(inputs * 0.0, "int32") + np.arange(5)[None]
    small, _ = stripped(inputs, positions)
    assert small.get_layer("logits").kernel.shape == (5 * 2, 2)


class SharedHead(keras.layers.Layer):
    """Multiplies by the embeddings of another layer."""

    def __init__(self, words, **kwargs):
        super().__init__(**kwargs)
        self.words = words

    def call(self, inputs):
        return keras.ops.matmul(inputs, keras.ops.transpose(self.words.embeddings))


def test_rows_that_a_head_shares_with_a_lookup_stay_with_the_true_reason():
    words = keras.layers.Embedding(11, 8, name="words")
    inputs = keras.Input((5,), dtype="int32")
    logits = SharedHead(words, name="head")(words(inputs))
    model = keras.Model(inputs, keras.layers.Dense(2, name="after")(logits))
    reasons = [why for one in tfprune.explain(model).sets for why in one.pinned]
    assert "'words' looks up rows of the weight 'embeddings', which it shares" in reasons
