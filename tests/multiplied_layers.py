"""Layers of all kinds whose weights are multiplied with inputs, or not, in one model."""

import keras
import numpy as np
from keras import ops


class Attention(keras.layers.Layer):
    """Attention of a user with a fused kernel of its own, and tied weights."""

    def build(self, shape):
        self.fused = self.add_weight(shape=(shape[-1], 3 * 8), name="fused")
        self.position = self.add_weight(shape=(1, shape[1], shape[-1]), name="position")
        self.out = keras.layers.Dense(shape[-1], name="out")
        self.out.build((None, 8))

    def call(self, x):
        q, k, v = ops.split(ops.matmul(x + self.position, self.fused), 3, axis=-1)
        return self.out(ops.matmul(ops.softmax(ops.matmul(q, ops.swapaxes(k, 1, 2))), v))


def zoo():
    inputs = keras.Input((9,), dtype="int32")
    embedding = keras.layers.ReversibleEmbedding(11, 8, name="tied")
    x = embedding(inputs)
    x = keras.layers.GroupQueryAttention(4, 4, 2, name="grouped_query")(x, x)
    x = keras.layers.MultiHeadAttention(2, 4, name="multi_head")(x, x)
    x = Attention(name="own")(x)
    x = keras.layers.Conv1D(8, 3, groups=2, padding="causal", name="conv")(x)
    x = keras.layers.EinsumDense("abc,cd->abd", (None, 8), name="einsum")(x)
    x = keras.layers.SeparableConv1D(8, 3, name="separable")(x)
    x = keras.layers.LSTM(8, return_sequences=True, name="recurrent")(x)
    return keras.Model(inputs, embedding(x, reverse=True))


TOKENS = np.random.default_rng(0).integers(0, 11, size=(24, 9))
