"""Layers made of layers, as users write them."""

import keras

from tests.user_code.activations import (
    swish,
)
from tests.user_code.custom_weights import (
    Scale,
)

layers, ops = keras.layers, keras.ops


class Mlp(layers.Layer):
    """Layers in a list; the last is made by `build`."""

    def __init__(self, hidden, depth=1, **kwargs):
        super().__init__(**kwargs)
        self.hidden, self.depth = hidden, depth
        self.supports_masking = True
        self.steps = [layers.Dense(hidden, activation=swish) for _ in range(depth)]

    def build(self, shape):
        self.steps.append(layers.Dense(shape[-1]))
        for step in self.steps:
            step.build(shape)
            shape = step.compute_output_shape(shape)

    def call(self, inputs):
        x = inputs
        for step in self.steps:
            x = step(x)
        return inputs + x

    def compute_output_shape(self, shape):
        return shape


class Parts(layers.Layer):
    """Layers in a dict, each of which is called on the input; what they give is joined."""

    def __init__(self, parts, join="add", **kwargs):
        super().__init__(**kwargs)
        self.parts, self.join = dict(parts), join

    def call(self, inputs):
        first, *others = [part(inputs) for part in self.parts.values()]
        if self.join == "concatenate":
            return ops.concatenate([first, *others], axis=-1)
        for other in others:
            first = first + other if self.join == "add" else first * ops.sigmoid(other)
        return first


class Chain(layers.Layer):
    """Layers that it is given, in lists in a dict, one after the other."""

    def __init__(self, steps, residual=False, **kwargs):
        super().__init__(**kwargs)
        self.groups = {"first": list(steps[:1]), "others": list(steps[1:])}
        self.residual = residual

    def call(self, inputs):
        x = inputs
        for group in ("first", "others"):
            for step in self.groups[group]:
                x = step(x)
        fits = x.shape[1:] == inputs.shape[1:] and None not in x.shape[1:]
        return inputs + x if self.residual and fits else x


class TwoOutputs(layers.Layer):
    """Calls a layer that gives a dict, and uses it."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.both = ValueAndGate(units)

    def call(self, inputs):
        found = self.both(inputs)
        return found["value"] * ops.sigmoid(found["gate"])


class ValueAndGate(layers.Layer):
    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.value, self.gate = layers.Dense(units), layers.Dense(units)

    def call(self, inputs):
        return {"value": self.value(inputs), "gate": self.gate(inputs)}


class Cross(layers.Layer):
    """Gives a layer inside a second tensor by its name."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.inner = Conditioned(units)

    def call(self, inputs):
        return self.inner(inputs, context=ops.mean(inputs, axis=1, keepdims=True))


class Conditioned(layers.Layer):
    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.project, self.condition = layers.Dense(units), layers.Dense(units, use_bias=False)

    def call(self, inputs, scale=1.0, context=None):
        x = self.project(inputs) * scale
        return x if context is None else ops.gelu(x + self.condition(context))


class SplitHeads(layers.Layer):
    """Attention of Dense layers, with sizes that `call` reads."""

    def __init__(self, heads, **kwargs):
        super().__init__(**kwargs)
        self.heads = heads

    def build(self, shape):
        width = 4 * self.heads
        self.projections = {n: layers.Dense(width, name=n) for n in ("query", "key", "value")}
        self.output_dense = layers.Dense(shape[-1], name="output")
        for dense in self.projections.values():
            dense.build(shape)
        self.output_dense.build((*shape[:-1], width))

    def call(self, inputs):
        batch, length = ops.shape(inputs)[0], ops.shape(inputs)[1]

        def split(name):
            x = ops.reshape(self.projections[name](inputs), (batch, length, self.heads, 4))
            return ops.transpose(x, (0, 2, 1, 3))

        scores = ops.matmul(split("query"), ops.transpose(split("key"), (0, 1, 3, 2)))
        x = ops.matmul(ops.softmax(scores / 2.0), split("value"))
        x = ops.reshape(ops.transpose(x, (0, 2, 1, 3)), (batch, length, 4 * self.heads))
        return inputs + self.output_dense(x)


class Transformer(layers.Layer):
    """Blocks in a block, with norms of its own."""

    def __init__(self, heads, hidden, rate=0.1, **kwargs):
        super().__init__(**kwargs)
        self.heads, self.hidden, self.rate = heads, hidden, rate
        self.supports_masking = True
        self.attend = layers.MultiHeadAttention(heads, 4)
        self.mlp = Mlp(hidden)
        self.norm = layers.LayerNormalization()
        self.drop = layers.Dropout(rate)
        self.scale = Scale()

    def build(self, shape):
        self.attend.build(shape, shape)
        for part in (self.mlp, self.norm, self.drop, self.scale):
            part.build(shape)

    def call(self, inputs, training=False, mask=None):
        attention_mask = None if mask is None else mask[:, None, :]
        x = self.attend(inputs, inputs, attention_mask=attention_mask, training=training)
        x = self.norm(inputs + self.scale(self.drop(x, training=training)))
        return self.mlp(x)


class ConvBlock(layers.Layer):
    """Convolutions in a list of pairs, with a shortcut where the width changes."""

    def __init__(self, filters, depth=2, **kwargs):
        super().__init__(**kwargs)
        self.filters, self.depth = filters, depth
        self.pairs = [
            (layers.Conv2D(filters, 3, padding="same"), layers.BatchNormalization())
            for _ in range(depth)
        ]
        self.shortcut = None

    def build(self, shape):
        if shape[-1] != self.filters:
            self.shortcut = layers.Conv2D(self.filters, 1)
        super().build(shape)

    def call(self, inputs, training=False):
        x = inputs
        for convolution, norm in self.pairs:
            x = ops.relu(norm(convolution(x), training=training))
        return x + (inputs if self.shortcut is None else self.shortcut(inputs))


class Squeeze(layers.Layer):
    """Weighs channels by what is in all places, with a model inside."""

    def __init__(self, hidden, **kwargs):
        super().__init__(**kwargs)
        self.hidden = hidden

    def build(self, shape):
        self.weigh = keras.Sequential(
            [
                layers.GlobalAveragePooling2D(),
                layers.Dense(self.hidden, activation="relu"),
                layers.Dense(shape[-1], activation="sigmoid"),
            ]
        )
        self.weigh.build(shape)

    def call(self, inputs):
        return inputs * self.weigh(inputs)[:, None, None]


class GraphInside(layers.Layer):
    """A Functional model inside."""

    def __init__(self, hidden, **kwargs):
        super().__init__(**kwargs)
        self.hidden = hidden

    def build(self, shape):
        x = inputs = keras.Input(shape[1:])
        x = layers.Dense(self.hidden, activation="relu")(x)
        self.model = keras.Model(inputs, layers.Dense(shape[-1])(x) + inputs)

    def call(self, inputs):
        return self.model(inputs)


class DropBlock(layers.Layer):
    """Leaves out a layer at random while it trains."""

    def __init__(self, rate=0.2, hidden=8, **kwargs):
        super().__init__(**kwargs)
        self.rate, self.hidden = rate, hidden
        self.seed_generator = keras.random.SeedGenerator(3)

    def build(self, shape):
        self.dense = layers.Dense(self.hidden, activation="relu")
        self.dense.build(shape)
        self.back = layers.Dense(shape[-1])
        self.back.build((*shape[:-1], self.hidden))

    def call(self, inputs, training=None):
        x = self.back(self.dense(inputs))
        if training:
            shape = (ops.shape(inputs)[0],) + (1,) * (len(inputs.shape) - 1)
            kept = keras.random.uniform(shape, seed=self.seed_generator) > self.rate
            x = x * ops.cast(kept, x.dtype)
        return inputs + x


class MaskedMean(layers.Layer):
    """The mean over the steps that the mask leaves."""

    def call(self, inputs, mask=None):
        if mask is None:
            return ops.mean(inputs, axis=1)
        mask = ops.cast(mask, inputs.dtype)[..., None]
        return ops.sum(inputs * mask, axis=1) / (ops.sum(mask, axis=1) + 1e-3)

    def compute_mask(self, inputs, mask=None):
        return None


class KeepsMask(layers.Layer):
    """Masks steps by what is in them, and what the mask leaves by zeros."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.supports_masking = True

    def build(self, shape):
        self.shift = self.add_weight(shape=shape[-1:], name="shift")

    def compute_mask(self, inputs, mask=None):
        found = ops.any(ops.not_equal(inputs, 0.0), axis=-1)
        return found if mask is None else ops.logical_and(mask, found)

    def call(self, inputs, mask=None):
        x = ops.tanh(inputs + self.shift)
        return x if mask is None else ops.where(mask[..., None], x, 0.0)


class OneStep(layers.Layer):
    """A step by its number."""

    def call(self, inputs):
        return inputs[:, 0]


class TiedHead(layers.Layer):
    """Multiplies by the embeddings of another layer."""

    def __init__(self, embedding, **kwargs):
        super().__init__(**kwargs)
        self.embedding = embedding

    def call(self, inputs):
        return ops.matmul(inputs, ops.transpose(self.embedding.embeddings))


def local(units, activation):
    """A layer of a class that is made in a function."""

    class Local(layers.Layer):
        def __init__(self):
            super().__init__()
            self.dense = layers.Dense(units)
            self.shift = None

        def build(self, shape):
            self.dense.build(shape)
            self.shift = self.add_weight(shape=(units,), name="shift")

        def call(self, x):
            return activation(self.dense(x)) - self.shift

    return Local()
