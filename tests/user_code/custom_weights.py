"""Layers with weights of their own, as users write them."""

import keras
import numpy as np

from tests.user_code.activations import (
    swish,
)

layers, ops = keras.layers, keras.ops


class Position(layers.Layer):
    """Added, one for each step: the steps must be known."""

    def build(self, shape):
        self.position = self.add_weight(shape=shape[1:], name="position")

    def call(self, inputs):
        return inputs + self.position


class FirstPositions(layers.Layer):
    """Added, the first rows of a longer table."""

    def __init__(self, most=9, **kwargs):
        super().__init__(**kwargs)
        self.most = most
        self.supports_masking = True

    def build(self, shape):
        self.table = self.add_weight(shape=(self.most, shape[-1]), name="table")

    def call(self, inputs):
        return inputs + self.table[: ops.shape(inputs)[1]]


class TakenPositions(layers.Layer):
    """Added, rows that are taken by their number."""

    def build(self, shape):
        self.table = self.add_weight(shape=(9, shape[-1]), name="table")

    def call(self, inputs):
        return inputs + ops.take(self.table, ops.arange(inputs.shape[1]), axis=0)


class Scale(layers.Layer):
    """Multiplied, with a variable that is no `add_weight`."""

    def build(self, shape):
        self.gamma = keras.Variable(np.ones(shape[-1], "float32"), name="gamma")

    def call(self, inputs):
        return inputs * (1.0 + self.gamma)


class Affine(layers.Layer):
    """Weights in a list, and some that are not trained."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.pairs = []

    def build(self, shape):
        for index in range(2):
            self.pairs.append(
                (
                    self.add_weight(shape=shape[-1:], name=f"scale_{index}"),
                    self.add_weight(shape=shape[-1:], name=f"shift_{index}", trainable=index == 0),
                )
            )

    def call(self, inputs):
        for scale, shift in self.pairs:
            inputs = ops.tanh(inputs * scale + shift)
        return inputs


class HandDense(layers.Layer):
    """A matrix product."""

    def __init__(self, units, activation="relu", **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.activation = keras.activations.get(activation)

    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1], self.units), name="kernel")
        self.bias = self.add_weight(shape=(self.units,), initializer="zeros", name="bias")

    def call(self, inputs):
        return self.activation(ops.matmul(inputs, self.kernel) + self.bias)

    def get_config(self):
        activation = keras.activations.serialize(self.activation)
        return {**super().get_config(), "units": self.units, "activation": activation}


class Normalised(layers.Layer):
    """A matrix product with columns of length one."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = units

    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1], self.units), name="kernel")
        self.length = self.add_weight(shape=(self.units,), name="length")

    def call(self, inputs):
        norm = ops.sqrt(ops.sum(ops.square(self.kernel), axis=0, keepdims=True) + 1e-6)
        return ops.matmul(inputs, self.kernel / norm) * self.length


class Gated(layers.Layer):
    """Two products, one the gate of the other, and one back to the width of the input."""

    def __init__(self, hidden, **kwargs):
        super().__init__(**kwargs)
        self.hidden = hidden
        self.supports_masking = True

    def build(self, shape):
        self.gate = self.add_weight(shape=(shape[-1], self.hidden), name="gate")
        self.up = self.add_weight(shape=(shape[-1], self.hidden), name="up")
        self.down = self.add_weight(shape=(self.hidden, shape[-1]), name="down")

    def call(self, inputs):
        gate = swish(inputs @ self.gate)
        return (gate * (inputs @ self.up)) @ self.down


class Heads(layers.Layer):
    """Attention by einsum, all of its kernels its own."""

    def __init__(self, heads, size, **kwargs):
        super().__init__(**kwargs)
        self.heads, self.size = heads, size

    def build(self, shape):
        split = (shape[-1], self.heads, self.size)
        self.q, self.k, self.v = [self.add_weight(shape=split, name=n) for n in "qkv"]
        self.o = self.add_weight(shape=(self.heads, self.size, shape[-1]), name="o")

    def call(self, inputs):
        q, k, v = [ops.einsum("btc,chd->bhtd", inputs, w) for w in (self.q, self.k, self.v)]
        scores = ops.softmax(ops.einsum("bhtd,bhsd->bhts", q, k) / self.size**0.5)
        return inputs + ops.einsum("bhtd,hdc->btc", scores @ v, self.o)


class Norm(layers.Layer):
    """A norm by hand: over the units, with or without a mean, or with moving statistics."""

    def __init__(self, kind="layer", **kwargs):
        super().__init__(**kwargs)
        self.kind = kind

    def build(self, shape):
        self.gamma = self.add_weight(shape=shape[-1:], initializer="ones", name="gamma")
        self.beta = self.add_weight(shape=shape[-1:], name="beta")
        if self.kind == "moving":
            self.mean = self.add_weight(shape=shape[-1:], trainable=False, name="mean")
            self.variance = self.add_weight(
                shape=shape[-1:], initializer="ones", trainable=False, name="variance"
            )

    def call(self, inputs, training=False):
        if self.kind == "moving":
            if training:
                axes = list(range(len(inputs.shape) - 1))
                self.mean.assign(0.9 * self.mean + 0.1 * ops.mean(inputs, axes))
            inputs = (inputs - self.mean) / ops.sqrt(self.variance + 1e-3)
        else:
            if self.kind == "layer":
                inputs = inputs - ops.mean(inputs, axis=-1, keepdims=True)
            square = ops.mean(ops.square(inputs), axis=-1, keepdims=True)
            inputs = inputs * ops.rsqrt(square + 1e-6)
        return inputs * self.gamma + self.beta


class ClassToken(layers.Layer):
    """Concatenated before the steps."""

    def build(self, shape):
        self.token = self.add_weight(shape=(1, 1, shape[-1]), name="token")

    def call(self, inputs):
        token = ops.broadcast_to(self.token, (ops.shape(inputs)[0], 1, self.token.shape[-1]))
        return ops.concatenate([token, inputs], axis=1)


class Queries(layers.Layer):
    """Broadcast, and attended with: a number of steps that is always the same."""

    def __init__(self, number=2, **kwargs):
        super().__init__(**kwargs)
        self.number = number
        self.attend = layers.MultiHeadAttention(2, 4)

    def build(self, shape):
        self.queries = self.add_weight(shape=(self.number, shape[-1]), name="queries")
        self.attend.build((shape[0], self.number, shape[-1]), shape)

    def call(self, inputs):
        queries = ops.tile(self.queries[None], (ops.shape(inputs)[0], 1, 1))
        return queries + self.attend(queries, inputs)


class Tied(layers.Layer):
    """A product with a kernel, and one with the same kernel transposed."""

    def __init__(self, hidden, **kwargs):
        super().__init__(**kwargs)
        self.hidden = hidden

    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1], self.hidden), name="kernel")
        self.inner = self.add_weight(shape=(self.hidden,), name="inner")
        self.outer = self.add_weight(shape=shape[-1:], name="outer")

    def call(self, inputs):
        x = ops.relu(ops.matmul(inputs, self.kernel) + self.inner)
        return ops.matmul(x, ops.transpose(self.kernel)) + self.outer

    def compute_output_shape(self, shape):
        return shape


class Table(layers.Layer):
    """An embedding by hand."""

    def __init__(self, rows, width, **kwargs):
        super().__init__(**kwargs)
        self.rows, self.width = rows, width

    def build(self, shape=None):
        self.table = self.add_weight(shape=(self.rows, self.width), name="table")

    def call(self, inputs):
        return ops.take(self.table, ops.cast(inputs, "int32"), axis=0)


class Fused(layers.Layer):
    """Kernels that are concatenated for one product, which is split again."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = units

    def build(self, shape):
        self.kernels = {
            name: self.add_weight(shape=(shape[-1], self.units), name=name) for name in ("a", "b")
        }

    def call(self, inputs):
        x = ops.matmul(inputs, ops.concatenate(list(self.kernels.values()), axis=-1))
        left, right = ops.split(x, 2, axis=-1)
        return left * ops.sigmoid(right)


class Context(layers.Layer):
    """A weight that is spread over the batch and concatenated to the units."""

    def __init__(self, number=2, **kwargs):
        super().__init__(**kwargs)
        self.number = number
        self.function = lambda x: ops.tanh(x) + 0.1 * x

    def build(self, shape):
        self.context = self.add_weight(shape=(self.number,), name="context")

    def call(self, inputs):
        shape = (*ops.shape(inputs)[:-1], self.number)
        context = ops.broadcast_to(self.context, shape)
        return self.function(ops.concatenate([inputs, context], axis=-1))


class Picked(layers.Layer):
    """Units in an order of their own, some of them twice, and a scale that is taken alike."""

    def build(self, shape):
        self.order = [(3 * place + 1) % shape[-1] for place in range(shape[-1])]
        self.scale = self.add_weight(shape=(1, shape[-1]), name="scale")

    def call(self, inputs):
        scale = ops.squeeze(ops.take(self.scale, self.order, axis=-1), 0)
        return ops.take(inputs, self.order, axis=-1) * (1.0 + scale)


class Cell(layers.Layer):
    """A recurrent cell with a gate."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = self.state_size = self.output_size = units

    def build(self, shape):
        self.given = self.add_weight(shape=(shape[-1], 2 * self.units), name="given")
        self.recurrent = self.add_weight(shape=(self.units, 2 * self.units), name="recurrent")

    def call(self, inputs, states, training=False):
        x = ops.matmul(inputs, self.given) + ops.matmul(states[0], self.recurrent)
        gate, value = x[..., : self.units], x[..., self.units :]
        gate = ops.sigmoid(gate)
        state = gate * states[0] + (1.0 - gate) * ops.tanh(value)
        return state, [state]


class LowRank(layers.Dense):
    """A subclass of a layer of Keras which adds a product of two kernels."""

    def build(self, shape):
        super().build(shape)
        self.first = self.add_weight(shape=(shape[-1], 4), name="first")
        self.second = self.add_weight(shape=(4, self.units), name="second")

    def call(self, inputs):
        return super().call(inputs) + ops.matmul(ops.matmul(inputs, self.first), self.second)


class Filters(layers.Layer):
    """A convolution by hand."""

    def __init__(self, filters, **kwargs):
        super().__init__(**kwargs)
        self.filters = filters

    def build(self, shape):
        self.kernel = self.add_weight(shape=(3, 3, shape[-1], self.filters), name="kernel")

    def call(self, inputs):
        return ops.relu(ops.conv(inputs, self.kernel, padding="same"))
